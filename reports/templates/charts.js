// Draws every chart of the page: the configurations are in the page as JSON; what JSON cannot
// hold, functions, is added here by the names in `presets`.
(function () {
  "use strict";

  // Three significant digits with a unit's prefix: 1234567 -> "1.23 M".
  function engineering(value, unit) {
    if (value === 0) return "0";
    const prefixes = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]];
    const magnitude = Math.abs(value);
    const found = prefixes.find((p) => magnitude >= p[0] * 0.9995) || prefixes[prefixes.length - 1];
    return Number((value / found[0]).toPrecision(3)) + " " + found[1] + unit;
  }

  function bytes(value) {
    const prefixes = [[1 << 30, "GiB"], [1 << 20, "MiB"], [1 << 10, "KiB"]];
    const found = prefixes.find((p) => Math.abs(value) >= p[0]) || [1, "B"];
    return Number((value / found[0]).toPrecision(3)) + " " + found[1];
  }

  const formats = {
    ms: (v) => Number(v.toPrecision(3)) + " ms",
    percent: (v) => Number((100 * v).toPrecision(3)) + "%",
    times: (v) => Number(v.toPrecision(3)) + "×",
    number: (v) => Number(v.toPrecision(4)).toLocaleString("en"),
    flops: (v) => engineering(v, "FLOP/s"),
    bytes: bytes,
    intensity: (v) => Number(v.toPrecision(3)) + " FLOP/B",
    images: (v) => Number(v.toPrecision(3)).toLocaleString("en") + " images/s",
  };

  // On a logarithmic axis only 1, 2, 5 of each decade are labelled.
  function logTick(format) {
    return (value) => {
      const digit = Math.round(value / Math.pow(10, Math.floor(Math.log10(value) + 1e-9)));
      return digit === 1 || digit === 2 || digit === 5 ? format(value) : "";
    };
  }

  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 12;
  Chart.defaults.color = "#3c4653";
  Chart.defaults.borderColor = "#e4e8ec";
  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;

  function prepare(config) {
    const presets = config.presets || {};
    delete config.presets;
    const scales = config.options.scales;
    for (const axis of ["x", "y"]) {
      const format = formats[presets[axis]];
      if (!format) continue;
      scales[axis].ticks = scales[axis].ticks || {};
      scales[axis].ticks.callback =
        scales[axis].type === "logarithmic" ? logTick(format) : (value) => format(value);
    }
    const value = presets.value || (config.options.indexAxis === "y" ? "x" : "y");
    config.options.plugins.tooltip = config.options.plugins.tooltip || {};
    config.options.plugins.tooltip.callbacks = {
      label: (item) => {
        const parts = [];
        if (item.raw && item.raw.label) parts.push(item.raw.label);
        else if (item.dataset.label) parts.push(item.dataset.label);
        for (const axis of presets.both ? ["x", "y"] : [value]) {
          const format = formats[presets[axis]] || formats.number;
          parts.push(format(item.parsed[axis]));
        }
        return parts.join(", ");
      },
    };
    if (presets.hide_legend_of) {
      config.options.plugins.legend = config.options.plugins.legend || {};
      config.options.plugins.legend.labels = {
        usePointStyle: true,
        filter: (item) => !presets.hide_legend_of.includes(item.text),
      };
    }
    return config;
  }

  for (const element of document.querySelectorAll("script.chart-config")) {
    const canvas = document.getElementById(element.dataset.for);
    const caption = canvas.closest("figure").querySelector("figcaption");
    canvas.setAttribute("aria-label", caption.textContent);
    new Chart(canvas, prepare(JSON.parse(element.textContent)));
  }
  document.body.dataset.charts = "drawn";
})();
