#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "reports/document.h"

namespace classicnn {
namespace {

std::string CellText(const Cell& cell) {
  std::string text = cell.text;
  if (!cell.change.empty()) absl::StrAppend(&text, " (", cell.change, ")");
  return absl::StrReplaceAll(text, {{"|", "\\|"}, {"\n", " "}});
}

// Characters shown, not bytes: UTF-8 continuation bytes are not counted.
size_t Width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

void AppendPadded(const std::string& text, size_t width, bool left, std::string* out) {
  const std::string pad(width - std::min(width, Width(text)), ' ');
  absl::StrAppend(out, " ", left ? text : pad, left ? pad : text, " |");
}

struct MarkdownBlock {
  std::string* out;
  void operator()(const Paragraph& p) const { absl::StrAppend(out, p.text, "\n\n"); }
  void operator()(const List& list) const {
    for (const std::string& item : list.items) absl::StrAppend(out, "- ", item, "\n");
    absl::StrAppend(out, "\n");
  }
  void operator()(const Table& table) const {
    if (!table.caption.empty()) absl::StrAppend(out, "**", table.caption, "**\n\n");
    absl::StrAppend(out, MarkdownTable(table), "\n");
  }
  void operator()(const Chart&) const {}
};

}  // namespace

std::string MarkdownTable(const Table& table) {
  std::vector<size_t> widths;
  for (const std::string& h : table.header) widths.push_back(std::max<size_t>(3, Width(h)));
  for (const auto& row : table.rows) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i) {
      widths[i] = std::max(widths[i], Width(CellText(row[i])));
    }
  }
  const auto left = [&](size_t column) { return static_cast<int>(column) < table.text_columns; };
  std::string out = "|";
  for (size_t i = 0; i < widths.size(); ++i) {
    AppendPadded(absl::StrReplaceAll(table.header[i], {{"|", "\\|"}}), widths[i], left(i), &out);
  }
  absl::StrAppend(&out, "\n|");
  for (size_t i = 0; i < widths.size(); ++i) {
    const std::string dashes(widths[i], '-');
    absl::StrAppend(&out, " ", left(i) ? dashes : dashes.substr(1) + ":", " |");
  }
  absl::StrAppend(&out, "\n");
  for (const auto& row : table.rows) {
    absl::StrAppend(&out, "|");
    for (size_t i = 0; i < widths.size(); ++i) {
      AppendPadded(i < row.size() ? CellText(row[i]) : "", widths[i], left(i), &out);
    }
    absl::StrAppend(&out, "\n");
  }
  return out;
}

std::string RenderMarkdown(const Document& document) {
  std::string out = absl::StrCat("# ", document.title, "\n\n", document.subtitle, "\n\n");
  for (const auto& [figure, what] : document.facts) {
    absl::StrAppend(&out, "- **", figure, "** ", what, "\n");
  }
  if (!document.facts.empty()) absl::StrAppend(&out, "\n");
  for (const Section& section : document.sections) {
    absl::StrAppend(&out, "## ", section.title, "\n\n");
    for (const Block& block : section.blocks) std::visit(MarkdownBlock{&out}, block);
  }
  return out;
}

}  // namespace classicnn
