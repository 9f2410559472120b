#include "layers/row_products.h"

#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"
#include "gtest/gtest.h"
#include "tests/layers/layer_cases.h"
#include "tests/testing/buffers.h"

namespace classicnn {
namespace {

class RowProductsTest : public EveryTarget {};
INSTANTIATE_ON_EVERY_TARGET(RowProductsTest);

// `count` vectors of small whole numbers (all sums are exact), each with guards of its own.
std::vector<GuardedArray<float>> Vectors(int64_t count, int64_t size, const std::string& name) {
  std::vector<GuardedArray<float>> vectors;
  for (int64_t i = 0; i < count; ++i) {
    vectors.emplace_back(size);
    vectors.back().FillIntegers(RandomStream(1, name + std::to_string(i)));
  }
  return vectors;
}

template <class Pointer>
std::vector<Pointer> Pointers(const std::vector<GuardedArray<float>>& vectors) {
  std::vector<Pointer> pointers;
  for (const auto& v : vectors) pointers.push_back(v.data());
  return pointers;
}

void ExpectGuards(const std::vector<GuardedArray<float>>& vectors) {
  for (const auto& v : vectors) EXPECT_EQ(v.BrokenGuard(), "");
}

TEST_P(RowProductsTest, ProductsOfIntegersAreExact) {
  for (const int64_t rows : {4, 12, 64}) {
    for (const int64_t depth : {16, 48, 512}) {
      for (int64_t vectors = 1; vectors <= 17; ++vectors) {
        SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(depth) + ", " +
                     std::to_string(vectors) + " vectors");
        // The same with and without something behind the rows that is read next.
        const int64_t following = vectors % 2 == 0 ? 3 * depth : 0;
        GuardedArray<float> matrix(rows * depth + following);
        matrix.FillIntegers(RandomStream(1, "rows"));
        const auto a = Vectors(vectors, depth, "a");
        const auto out = Vectors(vectors, rows, "out");
        const auto a_pointers = Pointers<const float*>(a);
        const auto out_pointers = Pointers<float*>(out);
        RowProducts product;
        product.rows = matrix.data();
        product.num_rows = rows;
        product.depth = depth;
        product.num_vectors = vectors;
        product.a = a_pointers.data();
        product.out = out_pointers.data();
        if (following > 0) {
          product.next = matrix.data() + rows * depth;
          product.next_floats = following;
        }
        MultiplyRows(product);
        for (int64_t i = 0; i < vectors; ++i) {
          for (int64_t r = 0; r < rows; ++r) {
            float sum = 0;
            for (int64_t k = 0; k < depth; ++k) {
              sum += matrix.data()[r * depth + k] * a_pointers[static_cast<size_t>(i)][k];
            }
            ASSERT_EQ(out_pointers[static_cast<size_t>(i)][r], sum) << i << ", " << r;
          }
        }
        ExpectGuards(out);
      }
    }
  }
}

TEST_P(RowProductsTest, SumsOfIntegersAreExact) {
  for (const int64_t rows : {1, 2, 7, 32}) {
    for (const int64_t columns : {16, 48, 256}) {
      for (int64_t vectors = 1; vectors <= 17; ++vectors) {
        SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(columns) + ", " +
                     std::to_string(vectors) + " vectors");
        const int64_t stride = columns + (vectors % 3) * 16;
        GuardedTensor<float> matrix({1, 1, 2 * rows, columns}, stride);
        matrix.FillIntegers(RandomStream(1, "rows"));
        const auto a = Vectors(vectors, rows, "a");
        const auto out = Vectors(vectors, columns, "out");
        const auto a_pointers = Pointers<const float*>(a);
        const auto out_pointers = Pointers<float*>(out);
        RowSums sums;
        sums.rows = matrix.data();
        sums.row_stride = stride;
        sums.num_rows = rows;
        sums.columns = columns;
        sums.num_vectors = vectors;
        sums.a = a_pointers.data();
        sums.out = out_pointers.data();
        if (vectors % 2 == 0) {
          sums.next = matrix.data() + rows * stride;
          sums.next_rows = rows;
        }
        SumRows(sums);
        for (int64_t i = 0; i < vectors; ++i) {
          for (int64_t j = 0; j < columns; ++j) {
            float sum = 0;
            for (int64_t r = 0; r < rows; ++r) {
              sum += a_pointers[static_cast<size_t>(i)][r] * matrix.data()[r * stride + j];
            }
            ASSERT_EQ(out_pointers[static_cast<size_t>(i)][j], sum) << i << ", " << j;
          }
        }
        ExpectGuards(out);
      }
    }
  }
}

TEST_P(RowProductsTest, AddsRowsInTheirOrder) {
  for (const int64_t size : {1, 15, 16, 17, 200}) {
    for (int64_t count = 1; count <= 6; ++count) {
      const auto rows = Vectors(count, size, "row");
      for (size_t i = 0; i < rows.size(); ++i) {  // sums that do depend on the order
        rows[i].view().Pixel(0)[0] = i % 2 == 0 ? 1e8f : 0.3f;
      }
      const auto pointers = Pointers<const float*>(rows);
      GuardedArray<float> out(size), expected(size);
      for (const bool adds : {false, true}) {
        out.FillIntegers(RandomStream(2, "out"));
        for (int64_t j = 0; j < size; ++j) {
          float sum = adds ? out.data()[j] : 0.0f;
          for (const float* row : pointers) sum += row[j];
          expected.data()[j] = sum;
        }
        AddRowsTo(adds ? out.data() : nullptr, pointers.data(), count, size, out.data());
        EXPECT_EQ(Bits(out), Bits(expected)) << size << ", " << count << " rows";
        EXPECT_EQ(out.BrokenGuard(), "");
      }
    }
  }
}

}  // namespace
}  // namespace classicnn
