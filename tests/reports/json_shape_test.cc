#include "reports/json_shape.h"

#include <string>

#include "gtest/gtest.h"

namespace classicnn {
namespace {

std::string Message(const char* value, const char* pattern) {
  return std::string(
      CheckShape(nlohmann::json::parse(value), nlohmann::json::parse(pattern)).message());
}

TEST(JsonShapeTest, WhatFits) {
  EXPECT_EQ(Message("7", "0"), "");
  EXPECT_EQ(Message("-7.5", "0"), "");
  EXPECT_EQ(Message("0.5", "1"), "");
  EXPECT_EQ(Message("{\"a\": true, \"more\": []}", "{\"a\": false}"), "");
  EXPECT_EQ(Message("[1, \"two\"]", "[]"), "");
  EXPECT_EQ(Message("[]", "[\"\"]"), "");
  EXPECT_EQ(Message("{\"x\": [1], \"y\": [2, 3]}", "{\"*\": [0]}"), "");
  EXPECT_EQ(Message("{\"x\": null}", "{\"x\": null}"), "");
  EXPECT_EQ(Message("{}", "{\"x?\": 0}"), "");
  EXPECT_EQ(Message("{\"x\": 3}", "{\"x?\": 0}"), "");
}

TEST(JsonShapeTest, WhatDoesNotSaysWhere) {
  EXPECT_EQ(Message("7", "{}"), "the whole is a number, should be an object");
  EXPECT_EQ(Message("{\"a\": {}}", "{\"a\": {\"b\": 0}}"), "a.b is missing");
  EXPECT_EQ(Message("{\"a\": [1, \"2\"]}", "{\"a\": [0]}"), "a[1] is a text, should be a number");
  EXPECT_EQ(Message("{\"a\": [1, -2]}", "{\"a\": [1]}"), "a[1] is negative");
  EXPECT_EQ(Message("{\"x\": {}, \"y\": []}", "{\"*\": {}}"), "y is a list, should be an object");
  EXPECT_EQ(Message("{\"x\": null}", "{\"x\": true}"), "x is nothing, should be a truth value");
  EXPECT_EQ(Message("{\"x\": [3]}", "{\"x?\": [\"\"]}"), "x[0] is a number, should be a text");
}

}  // namespace
}  // namespace classicnn
