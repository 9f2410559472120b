// Files that are compiled into cnn-report, so that it needs nothing beside it to write a report.
// Their contents come from reports/templates/ and from Chart.js (reports/CMakeLists.txt).
#ifndef CLASSICNN_REPORTS_ASSETS_H_
#define CLASSICNN_REPORTS_ASSETS_H_

namespace classicnn {
namespace assets {

extern const char kIndexHtml[];
extern const char kStyleCss[];
extern const char kChartsJs[];
extern const char kChartJs[];  // Chart.js itself, its license line included

}  // namespace assets
}  // namespace classicnn

#endif  // CLASSICNN_REPORTS_ASSETS_H_
