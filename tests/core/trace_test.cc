#include "core/trace.h"

#include <thread>
#include <vector>

#include "core/file.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_folder.h"

namespace classicnn {
namespace {

nlohmann::json Written(const Tracer& tracer) {
  const TempFolder folder;  // tests run side by side
  const std::string path = folder / "trace.json";
  const absl::Status status = tracer.WriteJson(path);
  EXPECT_TRUE(status.ok()) << status;
  const auto text = ReadFile(path);
  EXPECT_TRUE(text.ok()) << text.status();
  return nlohmann::json::parse(*text);
}

TEST(Tracer, WritesSpansCountersAndThreadNames) {
  Tracer tracer(10);
  tracer.Span("conv \"1\"\n\xff", "node", 2, 5'000'000, 5'002'500);
  tracer.Counter("memory", 4'999'000, 123456789012);
  const auto json = Written(tracer);
  const auto& events = json.at("traceEvents");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].at("ph"), "M");
  EXPECT_EQ(events[0].at("name"), "thread_name");
  EXPECT_EQ(events[0].at("tid"), 2);
  EXPECT_EQ(events[0].at("args").at("name"), "worker 2");
  EXPECT_EQ(events[1].at("ph"), "X");
  EXPECT_EQ(events[1].at("name"), "conv \"1\"\n\xef\xbf\xbd");
  EXPECT_EQ(events[1].at("cat"), "node");
  EXPECT_EQ(events[1].at("tid"), 2);
  EXPECT_DOUBLE_EQ(events[1].at("ts"), 1);  // microseconds after the first event
  EXPECT_DOUBLE_EQ(events[1].at("dur"), 2.5);
  EXPECT_EQ(events[2].at("ph"), "C");
  EXPECT_DOUBLE_EQ(events[2].at("ts"), 0);
  EXPECT_EQ(events[2].at("args").at("value"), 123456789012);
}

TEST(Tracer, KeepsNamesWhoseOwnersGo) {
  Tracer tracer(10);
  {
    std::string name = "a step with a name too long to be stored inside its string";
    tracer.Span(name.c_str(), "forward", 0, 0, 1);
    tracer.KeepNames();
    name.assign(name.size(), 'x');
  }
  tracer.Span("later", "forward", 0, 1, 2);
  const auto json = Written(tracer);
  EXPECT_EQ(json.at("traceEvents")[1].at("name"),
            "a step with a name too long to be stored inside its string");
  EXPECT_EQ(json.at("traceEvents")[2].at("name"), "later");
}

TEST(Tracer, DropsAndCountsWhatDoesNotFit) {
  Tracer tracer(100);
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&tracer, t] {
      for (int i = 0; i < 50; ++i) tracer.Span("x", "y", t, i, i + 1);
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(tracer.dropped(), 100);
  const auto json = Written(tracer);
  int spans = 0;
  for (const auto& e : json.at("traceEvents")) spans += e.at("ph") == "X";
  EXPECT_EQ(spans, 100);
  EXPECT_EQ(json.at("otherData").at("dropped_events"), 100);
  tracer.Clear();
  EXPECT_EQ(tracer.dropped(), 0);
  EXPECT_TRUE(Written(tracer).at("traceEvents").empty());
}

TEST(Tracer, ManyEventsSurviveChunkedWriting) {
  Tracer tracer(30000);
  for (int i = 0; i < 30000; ++i) tracer.Span("name", "category", 0, i * 10, i * 10 + 5);
  EXPECT_EQ(Written(tracer).at("traceEvents").size(), 30001u);
}

// Threads hold parts of the reserve: what one recorded before is neither lost nor mixed up with
// what it records later, nor with what it records elsewhere in between.
TEST(Tracer, ThreadsRecordIntoSeveralTracersInTurns) {
  Tracer one(20000), two(20000);
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) one.Span("one", "y", t, i, i + 1);
      for (int i = 0; i < 334; ++i) two.Span("two", "y", t, i, i + 2);
      for (int i = 0; i < 500; ++i) one.Span("one", "y", t, i, i + 1);
    });
  }
  for (auto& t : threads) t.join();
  const auto durations = [](const Tracer& tracer, const char* name) {
    const auto json = Written(tracer);
    double sum = 0;
    for (const auto& e : json.at("traceEvents")) {
      if (e.at("ph") != "X") continue;
      EXPECT_EQ(e.at("name"), name);
      sum += e.at("dur").get<double>();
    }
    return sum;
  };
  EXPECT_NEAR(durations(one, "one"), 4.0, 1e-9);
  EXPECT_NEAR(durations(two, "two"), 4 * 334 * 0.002, 1e-9);
  EXPECT_EQ(one.dropped(), 0);
  {
    const std::string name = "one";
    one.Span(name.c_str(), "y", 0, 0, 1000);
    one.KeepNames();
  }
  one.Span("one", "y", 0, 0, 1000);
  EXPECT_NEAR(durations(one, "one"), 6.0, 1e-9);
  one.Clear();
  one.Span("one", "y", 0, 0, 1000);
  EXPECT_NEAR(durations(one, "one"), 1.0, 1e-9) << "nothing of before";
}

TEST(Tracer, NamesThePathItCannotWrite) {
  const absl::Status status = Tracer(1).WriteJson("/nonexistent/folder/trace.json");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("/nonexistent/folder/trace.json"), std::string::npos);
}

}  // namespace
}  // namespace classicnn
