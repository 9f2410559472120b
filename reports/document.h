// A report before it is HTML or Markdown: sections of paragraphs, lists, tables and charts.
#ifndef CLASSICNN_REPORTS_DOCUMENT_H_
#define CLASSICNN_REPORTS_DOCUMENT_H_

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "nlohmann/json.hpp"

namespace classicnn {

enum class Tone { kNeutral, kGood, kBad, kMuted };

// Texts are plain; `backticks` mark code. Renderers escape everything else.
struct Cell {
  std::string text;
  std::string change;  // against a baseline: "−3.1%"; empty without one
  Tone tone = Tone::kNeutral;

  Cell(std::string t = "") : text(std::move(t)) {}  // NOLINT
  Cell(const char* t) : text(t) {}                  // NOLINT
  Cell(std::string t, std::string c, Tone tn)
      : text(std::move(t)), change(std::move(c)), tone(tn) {}
};

struct Paragraph {
  std::string text;
};
struct List {
  std::vector<std::string> items;
};
struct Table {
  std::string caption;
  std::vector<std::string> header;  // the first column is text, the others are numbers,
  std::vector<std::vector<Cell>> rows;
  int text_columns = 1;  // unless more columns on the left are text
};
// A Chart.js configuration without functions: templates/charts.js adds them by the `presets` key.
struct Chart {
  std::string id;
  std::string caption;  // what it shows and how to read it
  nlohmann::json config;
  int height = 320;  // CSS pixels
};
using Block = std::variant<Paragraph, List, Table, Chart>;

struct Section {
  std::string id;
  std::string title;
  std::vector<Block> blocks = {};

  void Text(std::string text) { blocks.push_back(Paragraph{std::move(text)}); }
};

struct Document {
  std::string title;
  std::string subtitle;
  std::vector<std::pair<std::string, std::string>> facts;  // a figure and what it is, at the top
  std::vector<Section> sections;
};

// A table, with aligned columns when read as plain text. '|' in cells is escaped.
std::string MarkdownTable(const Table& table);
// Charts are left out (their figures are in tables); their captions are not shown.
std::string RenderMarkdown(const Document& document);
// One file that needs nothing else: styles, scripts and charts are inside.
std::string RenderHtml(const Document& document);

// Escapes &, <, >, quotes, then turns `code` into <code>code</code>.
std::string InlineHtml(const std::string& text);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_DOCUMENT_H_
