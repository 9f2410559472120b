// The report's document from its figures. Sentences with figures in them are made from the
// measured values, so that they are true of the machine they were measured on.
#ifndef CLASSICNN_REPORTS_SECTIONS_H_
#define CLASSICNN_REPORTS_SECTIONS_H_

#include <string>
#include <vector>

#include "reports/baseline.h"
#include "reports/document.h"
#include "reports/peer.h"
#include "reports/results.h"
#include "reports/training_runs.h"

namespace classicnn {

struct ReportInput {
  Results results;
  Comparison comparison;        // against nothing without a baseline
  std::string baseline_path;    // empty without one
  std::string baseline_commit;  // what the baseline was built from
  std::vector<TrainingRun> runs;
  std::vector<PeerComparison> peer;  // none or one
};

Document BuildDocument(const ReportInput& input);
// The table that a terminal shows.
Table ComparisonTable(const ReportInput& input);

// Internal: one or more sections each, in the order they are shown.
Section OverviewSection(const ReportInput& input);
Section ConditionsSection(const ReportInput& input);
Section ComparisonSection(const ReportInput& input);
Section LayerTypesSection(const ReportInput& input);
Section LayersSection(const ReportInput& input);
Section MemorySection(const ReportInput& input);
Section MemoryLimitsSection(const ReportInput& input);
Section BoundsSection(const ReportInput& input);
Section RooflineSection(const ReportInput& input);
Section ScalingSection(const ReportInput& input);
Section SpeedupSection(const ReportInput& input);
Section InnovationsSection(const ReportInput& input);
Section ClaimsSection(const ReportInput& input);
Section AccuracySection(const ReportInput& input);
Section PeerSection(const ReportInput& input);
Section ChangesSection(const ReportInput& input);
Section ReadingSection(const ReportInput& input);

// Whether any model has what these two sections are about.
bool HasMemoryLimits(const Results& results);
bool HasBounds(const Results& results);

// A cell that shows the figure's change against the baseline, if there is one.
Cell FigureCell(const ReportInput& input, const std::string& key, const std::string& text);
// How models are written in sentences: "VGG-16".
std::string ModelTitle(const std::string& model);
// Median seconds of a training step by layer type, all passes, longest first.
std::vector<std::pair<std::string, double>> SecondsByType(const PassResult& pass);
// What of a step no kernel takes, the median over its samples.
double BetweenKernels(const PassResult& pass);

}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_SECTIONS_H_
