#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/check.h"
#include "kainjow/mustache.hpp"
#include "reports/assets.h"
#include "reports/document.h"

namespace classicnn {
namespace {

namespace mustache = kainjow::mustache;

const char* ToneClass(Tone tone) {
  switch (tone) {
    case Tone::kNeutral:
      return "";
    case Tone::kGood:
      return "good";
    case Tone::kBad:
      return "bad";
    case Tone::kMuted:
      return "muted";
  }
  return "";
}

// Each block becomes an object with one of the keys paragraph, list, table, chart, so that the
// template chooses how it looks.
struct HtmlBlock {
  mustache::data operator()(const Paragraph& p) const {
    return {"paragraph", mustache::data("html", InlineHtml(p.text))};
  }
  mustache::data operator()(const List& list) const {
    mustache::data items{mustache::data::type::list};
    for (const std::string& item : list.items) items << mustache::data("html", InlineHtml(item));
    return {"list", mustache::data("items", items)};
  }
  mustache::data operator()(const Table& table) const {
    const auto column_class = [&](size_t i) {
      return static_cast<int>(i) < table.text_columns ? "text" : "number";
    };
    mustache::data header{mustache::data::type::list};
    for (size_t i = 0; i < table.header.size(); ++i) {
      mustache::data cell;
      cell.set("html", InlineHtml(table.header[i]));
      cell.set("class", column_class(i));
      header << cell;
    }
    mustache::data rows{mustache::data::type::list};
    for (const auto& row : table.rows) {
      mustache::data cells{mustache::data::type::list};
      for (size_t i = 0; i < row.size(); ++i) {
        mustache::data cell;
        cell.set("html", InlineHtml(row[i].text));
        const bool has_change = !row[i].change.empty();
        const char* tone = ToneClass(row[i].tone);
        // Short texts stay on one line; sentences may take several.
        constexpr size_t kShort = 44;
        cell.set("class", absl::StrCat(column_class(i), row[i].text.size() > kShort ? " wrap" : "",
                                       has_change ? "" : " ", has_change ? "" : tone));
        if (has_change) {
          mustache::data change;
          change.set("text", row[i].change);
          change.set("class", std::string(tone));
          cell.set("change", change);
        }
        cells << cell;
      }
      rows << mustache::data("cells", cells);
    }
    mustache::data t;
    t.set("header", header);
    t.set("rows", rows);
    if (!table.caption.empty()) t.set("caption", InlineHtml(table.caption));
    return {"table", t};
  }
  mustache::data operator()(const Chart& chart) const {
    mustache::data c;
    c.set("id", chart.id);
    c.set("caption", InlineHtml(chart.caption));
    c.set("height", absl::StrCat(chart.height));
    // Inside a script element only "</" could end it too early.
    c.set("config", absl::StrReplaceAll(chart.config.dump(), {{"</", "<\\/"}}));
    return {"chart", c};
  }
};

}  // namespace

std::string InlineHtml(const std::string& text) {
  std::string escaped = absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
  std::string out;
  bool code = false;
  for (const char c : escaped) {
    if (c == '`') {
      out += code ? "</code>" : "<code>";
      code = !code;
    } else {
      out += c;
    }
  }
  if (code) out += "</code>";
  return out;
}

std::string RenderHtml(const Document& document) {
  mustache::data root;
  root.set("title", document.title);
  root.set("subtitle", InlineHtml(document.subtitle));
  root.set("style", std::string(assets::kStyleCss));
  root.set("chart_js", std::string(assets::kChartJs));
  root.set("charts_js", std::string(assets::kChartsJs));
  mustache::data facts{mustache::data::type::list};
  for (const auto& [figure, what] : document.facts) {
    mustache::data fact;
    fact.set("figure", figure);
    fact.set("what", what);
    facts << fact;
  }
  root.set("facts", facts);
  mustache::data sections{mustache::data::type::list};
  for (const Section& section : document.sections) {
    mustache::data blocks{mustache::data::type::list};
    for (const Block& block : section.blocks) blocks << std::visit(HtmlBlock{}, block);
    mustache::data s;
    s.set("id", section.id);
    s.set("title", section.title);
    s.set("blocks", blocks);
    sections << s;
  }
  root.set("sections", sections);

  mustache::mustache page{std::string(assets::kIndexHtml)};
  CNN_CHECK(page.is_valid(), page.error_message());
  return page.render(root);
}

}  // namespace classicnn
