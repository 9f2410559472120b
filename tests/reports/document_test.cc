#include "reports/document.h"

#include <algorithm>
#include <regex>
#include <variant>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "reports/format.h"
#include "reports/peer.h"
#include "reports/sections.h"
#include "reports/speedups.h"
#include "reports/training_runs.h"
#include "tests/reports/fixtures.h"

namespace classicnn {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MarkdownTableTest, AlignsAndEscapes) {
  Table t;
  t.header = {"name", "µs"};
  t.rows = {{"a|b", "12"}, {"longer name", {"3", "−1.0%", Tone::kGood}}};
  EXPECT_EQ(MarkdownTable(t),
            "| name        |        µs |\n"
            "| ----------- | --------: |\n"
            "| a\\|b        |        12 |\n"
            "| longer name | 3 (−1.0%) |\n");
}

TEST(InlineHtmlTest, EscapesBeforeItMarksCode) {
  EXPECT_EQ(InlineHtml("a <b> & `x < \"y\"`"),
            "a &lt;b&gt; &amp; <code>x &lt; &quot;y&quot;</code>");
}

Document OneOfEach() {
  Document d;
  d.title = "<title>";
  d.subtitle = "<i>sub</i>";
  d.facts = {{"<1>", "fact & co"}};
  Section s{"id", "Sect<ion>"};
  s.Text("para <b>");
  s.blocks.push_back(List{{"item <li>"}});
  Table t;
  t.caption = "cap <c>";
  t.header = {"h<1>"};
  t.rows = {{"cell <script>alert(1)</script>"}};
  s.blocks.push_back(t);
  Chart c;
  c.id = "c1";
  c.caption = "chart <c>";
  c.config = {{"note", "</script><script>alert(2)"}};
  s.blocks.push_back(c);
  d.sections = {s};
  return d;
}

TEST(RenderHtmlTest, EscapesEveryText) {
  const std::string html = RenderHtml(OneOfEach());
  EXPECT_THAT(html, Not(HasSubstr("alert(1)</script>")));
  EXPECT_THAT(html, Not(HasSubstr("</script><script>alert(2)")));
  EXPECT_THAT(html, HasSubstr("cell &lt;script&gt;alert(1)&lt;/script&gt;"));
  for (const char* raw :
       {"<i>sub", "Sect<ion>", "para <b>", "item <li>", "cap <c>", "chart <c>", "h<1>", "<b><1>"}) {
    EXPECT_THAT(html, Not(HasSubstr(raw)));
  }
  EXPECT_THAT(html, HasSubstr("Sect&lt;ion&gt;"));
  EXPECT_THAT(html, Not(HasSubstr("{{"))) << "an unrendered tag";
}

TEST(RenderMarkdownTest, HasEverySectionAndTable) {
  const std::string text = RenderMarkdown(OneOfEach());
  EXPECT_THAT(text, HasSubstr("## Sect<ion>"));
  EXPECT_THAT(text, HasSubstr("- item <li>"));
  EXPECT_THAT(text, HasSubstr("| h<1> "));
  EXPECT_THAT(text, HasSubstr("- **<1>** fact & co"));
}

TEST(ReportTest, HoldsEverySectionAndNoOutsideResource) {
  ReportInput input;
  input.results = MakeResults();
  const Document d = BuildDocument(input);
  const std::string html = RenderHtml(d);
  for (const char* id :
       {"overview", "conditions", "comparison", "types", "layers", "memory", "limits", "bounds",
        "roofline", "scaling", "reference", "innovations", "claims", "reading"}) {
    EXPECT_THAT(html, HasSubstr(std::string("<section id=\"") + id + "\">")) << id;
  }
  EXPECT_THAT(html, Not(HasSubstr("<section id=\"accuracy\">")));
  EXPECT_FALSE(std::regex_search(
      html, std::regex("(src|href)=[\"']?(https?:)?//|@import|url\\((['\"]?)https?:")));
  EXPECT_THAT(html, HasSubstr("A CPU &lt;of&gt; test &amp; &quot;quotes&quot;"));
  EXPECT_THAT(RenderMarkdown(d), HasSubstr("DenseNet-121 has 549 connections"));
}

TEST(ReportTest, DrawsTheCurvesOfTrainingRuns) {
  ReportInput input;
  input.results = MakeResults();
  TrainingRun run;
  run.path = "runs/a";
  run.model = "vgg16";
  run.kind = "cifar10";
  run.augment = "crop,flip";
  run.machine = "2 threads, A CPU";
  run.epochs = {{1, 1.5, 0.4, 1.25, 0.6, 100, 60},
                {2, 1.0, 0.7, 0, -1, 100, 60},
                {3, 0.75, 0.8, 0.875, 0.9125, 100, 60}};
  input.runs = {run};
  const Document d = BuildDocument(input);
  const std::string text = RenderMarkdown(d);
  EXPECT_THAT(text, HasSubstr("| `runs/a` | vgg16 |"));
  EXPECT_THAT(text, HasSubstr("91.2%"));
  EXPECT_THAT(text, HasSubstr("2 threads, A CPU"));
  const std::string html = RenderHtml(d);
  EXPECT_THAT(html, HasSubstr("chart-accuracy"));
  EXPECT_THAT(html, HasSubstr("chart-loss"));
  const auto section = std::find_if(d.sections.begin(), d.sections.end(),
                                    [](const Section& s) { return s.id == "accuracy"; });
  ASSERT_NE(section, d.sections.end());
  for (const auto& block : section->blocks) {
    const auto* chart = std::get_if<Chart>(&block);
    if (chart == nullptr || chart->id != "chart-loss") continue;
    const auto& sets = chart->config["data"]["datasets"];
    ASSERT_EQ(sets.size(), 2u);
    EXPECT_EQ(sets[0]["data"].size(), 3u);
    EXPECT_EQ(sets[0]["data"][1]["y"], 1.0);
    EXPECT_TRUE(sets[0].contains("borderDash"));
    EXPECT_EQ(sets[1]["label"], "a");
    EXPECT_EQ(chart->config["presets"]["hide_legend_of"], nlohmann::json({"a, training"}));
    EXPECT_EQ(sets[1]["data"].size(), 2u) << "of the evaluated epochs";
    EXPECT_EQ(sets[1]["data"][1]["y"], 0.875);
  }
}

TEST(ReportTest, TellsRunsApartAndThoseThatAreNotAtTheirEnd) {
  ReportInput input;
  input.results = MakeResults();
  TrainingRun run;
  run.model = "vgg16";
  run.epochs = {{1, 1.5, 0.4, 1.25, 0.6, 100, 60}};
  for (const char* path : {"runs/a/", "more/a", "runs/b"}) {
    run.path = path;
    input.runs.push_back(run);
  }
  input.runs[2].planned_epochs = 30;
  const Document d = BuildDocument(input);
  EXPECT_THAT(RenderMarkdown(d), HasSubstr("1 of 30"));
  const std::string html = RenderHtml(d);
  for (const char* label : {"\"label\":\"runs/a/\"", "\"label\":\"more/a\"", "\"label\":\"b\""}) {
    EXPECT_THAT(html, HasSubstr(label));
  }
}

TEST(ReportTest, TimesThatScatterProveNothing) {
  ReportInput input;
  input.results = MakeResults();
  std::vector<MemoryLimitResult>& points = input.results.models["vgg16"].memory_limits;
  points[1].seconds.samples = {0.2};  // less memory cannot be faster: 0.3 s without a limit
  const char* said = "What limits cost in time cannot be told from these samples";
  EXPECT_THAT(RenderMarkdown(BuildDocument(input)), HasSubstr(said));
  points[1].seconds.samples = {0.3, 0.4};
  EXPECT_THAT(RenderMarkdown(BuildDocument(input)), HasSubstr(said));
  points[1].seconds.samples = {0.3, 0.31};
  EXPECT_THAT(RenderMarkdown(BuildDocument(input)), testing::Not(HasSubstr(said)));
}

TEST(ReportTest, SaysWhatAMemoryLimitCosts) {
  ReportInput input;
  input.results = MakeResults();
  ModelResult& vgg = input.results.models["vgg16"];
  vgg.memory_limits[1].seconds.samples = vgg.memory_limits[2].seconds.samples = {0.303};
  input.results.models["resnet18"].memory_limits[1].seconds.samples = {0.6};
  const std::string text = RenderMarkdown(BuildDocument(input));
  EXPECT_THAT(text,
              HasSubstr("VGG-16 takes 976.56 KiB without a limit. Saving memory is nearly free: "
                        "even at the least that can be met, 488.28 KiB (50.0%), its time "
                        "changes by +1.0%, with 25.0% of the multiply-adds computed a second "
                        "time. Keeping 50.0% of the activations changes it by +1.0%."));
  EXPECT_THAT(text, HasSubstr("Every limit costs time: 683.59 KiB (70.0%) +20.0%, and at the least "
                              "that can be met, 488.28 KiB (50.0%), its time changes by +30.0%"));
  EXPECT_THAT(text, HasSubstr("Down to 683.59 KiB (70.0%) a step is at most 5.0% slower; at the "
                              "least that can be met, 488.28 KiB (50.0%), its time changes by "
                              "+30.0%"));
  EXPECT_THAT(text, HasSubstr("The measured peak stayed within every limit."));
  vgg.memory_limits[2].peak_bytes = 500 * 1000 + 1;
  EXPECT_THAT(RenderMarkdown(BuildDocument(input)),
              HasSubstr("The measured peak exceeded 1 of 10 limits."));
}

TEST(ReportTest, SaysWhatBoundsAStep) {
  ReportInput input;
  input.results = MakeResults();
  // 0.09 s of 0.3 s bound by arithmetic, 0.18 s by memory; roofs of 0.06 s and 0.09 s.
  EXPECT_THAT(RenderMarkdown(BuildDocument(input)),
              HasSubstr("VGG-16 is bound by memory for the most part. 30.0% of a step goes to "
                        "kernels that the multiply-add peak bounds"));
  EXPECT_THAT(RenderMarkdown(BuildDocument(input)),
              HasSubstr("With every kernel at its roof the step would take 150 ms instead of 300 "
                        "ms: 2.00 × as fast"));
}

TEST(ReportTest, SaysSoWhereTheProbeWasWrong) {
  ReportInput input;
  input.results = MakeResults();
  input.results.models["vgg16"].train_step.bounds[0].roof_seconds = 7;
  const std::string text = RenderMarkdown(BuildDocument(input));
  EXPECT_THAT(text, HasSubstr("That is more than the probe found possible"));
  EXPECT_THAT(text, Not(HasSubstr("instead of 300 ms")));
}

TEST(ReportTest, LeavesOutWhatWasNotMeasured) {
  ReportInput input;
  input.results = MakeResults();
  for (auto& [name, m] : input.results.models) {
    m.memory_limits.resize(1);  // no limit to compare with
    m.train_step.bounds.clear();
  }
  std::string html = RenderHtml(BuildDocument(input));
  EXPECT_THAT(html, Not(HasSubstr("<section id=\"limits\">")));
  EXPECT_THAT(html, Not(HasSubstr("<section id=\"bounds\">")));
  // One model alone has a curve, another one only points without times or sizes.
  input.results.models["resnet18"] = MakeResults().models["resnet18"];
  input.results.models["vgg16"].memory_limits = std::vector<MemoryLimitResult>(3);
  html = RenderHtml(BuildDocument(input));
  EXPECT_THAT(html, HasSubstr("ResNet-18 takes"));
  EXPECT_THAT(html, Not(HasSubstr("VGG-16 takes")));
  EXPECT_THAT(html, HasSubstr("<section id=\"bounds\">"));
  EXPECT_FALSE(std::regex_search(html, std::regex("[^a-z](nan|inf)[^a-z]")));
}

// Medians of parts do not add up to that of the whole; what lies between is known of each step.
TEST(ReportTest, BetweenKernelsIsWhatEachStepLeaves) {
  PassResult pass = MakePass(64, 2, 1.0);
  pass.seconds.samples = {1.0, 2.0, 3.0};
  pass.types.resize(2);
  pass.types[0].seconds.samples = {0.5, 1.8, 0.9};
  pass.types[1].seconds.samples = {0.4, 0.1, 2.0};
  EXPECT_NEAR(BetweenKernels(pass), 0.1, 1e-12);
  pass.types[1].seconds.samples = {0.4};
  EXPECT_EQ(BetweenKernels(pass), 0) << "not of the same steps";
}

TEST(ReportTest, ShowsChangesAgainstABaseline) {
  ReportInput input;
  input.results = MakeResults();
  Results before = MakeResults();
  before.models["vgg16"].train_step.seconds.samples = {0.6, 0.6, 0.6};
  input.comparison = Comparison(before, input.results);
  input.baseline_path = "before.json";
  const std::string text = RenderMarkdown(BuildDocument(input));
  EXPECT_THAT(text, HasSubstr("Changes against the baseline"));
  EXPECT_THAT(text, HasSubstr("−50.0%"));
}

TEST(ReportTest, ShowsChangesOfLimitsAndBoundsToo) {
  ReportInput input;
  input.results = MakeResults();
  Results before = MakeResults();
  ModelResult& vgg = before.models["vgg16"];
  for (double& s : vgg.memory_limits[1].seconds.samples) s *= 4;
  for (double& s : vgg.train_step.bounds[0].seconds.samples) s *= 10;
  input.comparison = Comparison(before, input.results);
  input.baseline_path = "before.json";
  const std::string text = RenderMarkdown(BuildDocument(input));
  EXPECT_THAT(text, HasSubstr("−75.0%")) << "the time under a limit";
  EXPECT_THAT(text, HasSubstr("+900.0%")) << "the rate of what arithmetic bounds";
}

// The rows of the table whose caption begins like this, without tones.
std::vector<std::vector<std::string>> RowsOf(const Document& d, const std::string& caption) {
  std::vector<std::vector<std::string>> rows;
  for (const Section& s : d.sections) {
    for (const auto& block : s.blocks) {
      const auto* table = std::get_if<Table>(&block);
      if (table == nullptr || table->caption.rfind(caption, 0) != 0) continue;
      for (const auto& cells : table->rows) {
        rows.emplace_back();
        for (const Cell& cell : cells) rows.back().push_back(cell.text);
      }
    }
  }
  return rows;
}

TEST(ReportTest, RanksAndFactsPointTheRightWay) {
  ReportInput input;
  input.results = MakeResults();
  int64_t peak = 6000000;
  for (const std::string& name : input.results.model_order) {
    input.results.models[name].memory.peak_bytes = peak -= 1000000;
  }
  const Document d = BuildDocument(input);
  using Row = std::vector<std::string>;
  // Speed, inference, latency: by seconds; parameters; MACs; memory; share of the peak.
  EXPECT_THAT(RowsOf(d, "Ranks"),
              testing::ElementsAre(Row{"vgg16", "2", "2", "2", "5", "2", "5", "2"},
                                   Row{"resnet18", "3", "3", "3", "4", "3", "4", "3"},
                                   Row{"googlenet", "5", "5", "5", "2", "5", "3", "5"},
                                   Row{"mobilenetv1", "1", "1", "1", "1", "1", "2", "1"},
                                   Row{"densenet121", "4", "4", "4", "3", "4", "1", "4"}));
  ASSERT_EQ(d.facts.size(), 4u);
  EXPECT_EQ(d.facts[0].first, "MobileNetV1");
  EXPECT_THAT(d.facts[0].second, HasSubstr("fastest: 640 images/s"));
  EXPECT_EQ(d.facts[1].first, "MobileNetV1");
  EXPECT_THAT(d.facts[1].second, HasSubstr("3.2"));
  EXPECT_EQ(d.facts[2].first, "MobileNetV1");
  EXPECT_THAT(d.facts[2].second, HasSubstr("10.0%"));
  EXPECT_EQ(d.facts[3].first, "DenseNet-121");
}

TEST(ReportTest, ShowsHowThreadsScale) {
  ReportInput input;
  input.results = MakeResults();
  const auto rows = RowsOf(BuildDocument(input), "A training step by thread count");
  ASSERT_EQ(rows.size(), 5u);
  for (const auto& row : rows) {
    ASSERT_EQ(row.size(), 5u);
    EXPECT_THAT(row[3], HasSubstr("1.90"));
    EXPECT_EQ(row[4], "95.0%");
  }
}

TEST(ReportTest, ShowsAnotherFramework) {
  ReportInput input;
  input.results = MakeResults();
  PeerComparison peer;
  peer.path = "peer.json";
  peer.peer = "PyTorch 9";
  peer.batch = 64;
  peer.threads = 2;
  PeerModel& m = peer.models["resnet18"];
  m.ours.samples = {0.2};
  m.peer.samples = {0.5};
  m.peer_layout = "channels_last";
  m.ours_peak_bytes = 300;
  m.peer_peak_bytes = 1000;
  input.peer = {peer};
  const Document d = BuildDocument(input);
  const auto rows = RowsOf(d, "A training step of 64 images on 2 threads, measured in turns");
  ASSERT_EQ(rows.size(), 1u) << "of the models that the peer ran";
  EXPECT_EQ(rows[0][0], "resnet18");
  EXPECT_EQ(rows[0][3], "channels_last");
  EXPECT_THAT(rows[0][4], HasSubstr("2.50"));
  EXPECT_THAT(rows[0][7], HasSubstr("0.30"));
  EXPECT_THAT(RenderMarkdown(d), HasSubstr("Against PyTorch 9"));
}

TEST(SpeedupsTest, AreTheReferencesTimeOverOurs) {
  Results r = MakeResults();
  SpeedupResult other = r.speedups[0];
  other.pass = "backward_data";
  other.optimized.samples = {1e-3};
  other.reference.samples = {28e-3};
  r.speedups.push_back(other);
  const auto summaries = SummarizeSpeedups(r);
  ASSERT_FALSE(summaries.empty());
  EXPECT_EQ(summaries[0].problems, 2);
  EXPECT_NEAR(summaries[0].geometric_mean, 14, 1e-9);
  EXPECT_NEAR(summaries[0].least, 7, 1e-9);
  EXPECT_NEAR(summaries[0].most, 28, 1e-9);
  EXPECT_THAT(summaries[0].least_shape, HasSubstr("forward"));
}

TEST(FormatTest, Figures) {
  EXPECT_EQ(FormatCount(14986698), "14,986,698");
  EXPECT_EQ(FormatCount(-1000), "−1,000");
  EXPECT_EQ(FormatCount(12), "12");
  EXPECT_EQ(FormatScaled(14986698), "15.0 M");
  EXPECT_EQ(FormatScaled(535), "535");
  EXPECT_EQ(FormatSeconds(0.0123), "12.3 ms");
  EXPECT_EQ(FormatSeconds(1.5), "1.50 s");
  EXPECT_EQ(FormatDigits(1234.5, 3), "1234");
  EXPECT_EQ(FormatPercent(0.123), "12.3%");
  EXPECT_EQ(FormatSignedPercent(-0.034), "−3.4%");
}

}  // namespace
}  // namespace classicnn
