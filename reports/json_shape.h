// Whether a JSON value read from a file has the shape that its reader needs.
#ifndef CLASSICNN_REPORTS_JSON_SHAPE_H_
#define CLASSICNN_REPORTS_JSON_SHAPE_H_

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace classicnn {

// `pattern` is an example of what is needed:
// - an object: its keys are there and their values fit (there may be further ones); the key "*"
//   stands for every key that is there; "key?" is checked where it is there, but may be missing;
// - an array of one value: an array of which every element fits that value; empty: any array;
// - a text, a truth value or the number 0: any of its kind; the number 1: a number not below 0;
// - null: anything.
// InvalidArgument says where and what, such as "models.vgg16.macs is missing" or
// "layers[3].macs is a text, should be a number".
absl::Status CheckShape(const nlohmann::json& value, const nlohmann::json& pattern);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_JSON_SHAPE_H_
