// Draws the charts of a report from the data in the page. Knows no network and no figure but those.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const METRICS = [
    { key: "p50", at: 3, width: 2.2, dash: "" },
    { key: "p99", at: 4, width: 1.8, dash: "7 4" },
    { key: "p99.9", at: 5, width: 1.6, dash: "8 3 2 3" },
    { key: "max", at: 6, width: 1.6, dash: "2 4" },
  ];
  const visible = data.runs.map((run) => run.shown);
  const isShown = (index) => visible[index];
  const drawn = [];

  const html = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const svg = (tag, attributes, text) => {
    const made = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // Three digits, without zeros that say nothing.
  const digits = (number) => String(Number(number.toPrecision(3)));
  const time = (ns) => {
    if (ns < 1e3) return `${digits(ns)} ns`;
    if (ns < 999.5e3) return `${digits(ns / 1e3)} us`;
    if (ns < 999.5e6) return `${digits(ns / 1e6)} ms`;
    return `${digits(ns / 1e9)} s`;
  };
  const count = (number) => {
    for (const [factor, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (number >= factor * 0.9995) return digits(number / factor) + letter;
    }
    return digits(number);
  };
  const percent = (nines) => {
    // A whole number of nines is written with just those.
    const places = Number.isInteger(nines) ? nines - 2 : Math.ceil(nines - 2 + 0.7);
    return `${Number((100 - 100 * 10 ** -nines).toFixed(Math.min(Math.max(0, places), 9)))} %`;
  };
  const clock = (s) => {
    if (s < 120) return `${digits(s)} s`;
    return `${Math.floor(s / 60)}:${String(Math.round(s % 60)).padStart(2, "0")} min`;
  };

  const logScale = (from, to, low, high) => {
    const [a, b] = [Math.log10(from), Math.log10(to)];
    return (value) => low + (high - low) * (Math.log10(value) - a) / (b - a);
  };
  const linear = (from, to, low, high) => (value) => low + (high - low) * (value - from) / (to - from || 1);

  const niceStep = (rough) => {
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.9999);
  };
  // A logarithmic axis around some values: 1, 2 and 5 of each power of ten where there is room, else the powers alone,
  // and even steps where all values are near each other.
  const logAxis = (values, room) => {
    const real = values.filter((value) => value > 0);
    if (!real.length) return null;
    const [from, to] = [Math.min(...real) / 1.2, Math.max(...real) * 1.2];
    const lines = [];
    for (let power = -1; power < 13; power++) for (const digit of [1, 2, 5]) lines.push(digit * 10 ** power);
    const inside = lines.filter((line) => line >= from && line <= to);
    if (inside.length < 3) {
      const step = niceStep((to - from) / Math.min(5, room));
      const ticks = [];
      for (let index = Math.ceil(from / step); index * step <= to; index++) ticks.push(index * step);
      return { from, to, ticks, lines: ticks };
    }
    const powers = inside.filter((line) => Number.isInteger(Math.round(Math.log10(line) * 1e6) / 1e6));
    return { from, to, ticks: inside.length <= room || powers.length < 2 ? inside : powers, lines: inside };
  };
  const linearAxis = (high, room) => {
    const step = niceStep((high || 1) / room);
    const ticks = [];
    for (let index = 0; index * step < high + step * 0.999; index++) ticks.push(index * step);
    return { from: 0, to: ticks[ticks.length - 1] || 1, ticks };
  };
  const timeAxis = (high, room) => {
    const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
    const step = steps.find((candidate) => high / candidate <= room) || high / room;
    const ticks = [];
    for (let index = 0; index * step <= high * 1.0001; index++) ticks.push(index * step);
    return { from: 0, to: high || 1, ticks };
  };

  // A figure with a chart that is drawn again whenever its width or what is shown changes.
  const figure = (title, note, describe, draw) => {
    const chips = html("div", { className: "chips" });
    const caption = html("figcaption", {}, html("h2", { textContent: title }), chips, html("p", { textContent: note }));
    const host = html("div", {});
    const made = html("figure", {}, caption, host);
    document.getElementById("charts").append(made);
    const tip = html("div", { className: "tip", hidden: true });
    made.append(tip);
    const paint = () => {
      const width = Math.max(280, host.clientWidth);
      const height = Math.round(Math.min(380, Math.max(230, width * 0.4)));
      const box = { left: 62, right: width - (width < 560 ? 14 : 62), top: 14, bottom: height - 46, width, height };
      host.replaceChildren();
      tip.hidden = true;
      const canvas = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": describe });
      const probe = draw(canvas, box);
      if (!probe) {
        host.append(html("p", { className: "empty", textContent: "Nothing to show: no run is switched on, or none of its requests ended." }));
        return;
      }
      host.append(canvas);
      hover(made, host, canvas, box, tip, probe);
    };
    let known = host.clientWidth;
    new ResizeObserver(() => {
      if (host.clientWidth !== known) { known = host.clientWidth; paint(); }
    }).observe(host);
    drawn.push(paint);
    return { chips, paint };
  };

  const hover = (made, host, canvas, box, tip, probe) => {
    const cursor = svg("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
    const marks = svg("g", {});
    canvas.append(cursor, marks);
    let place = null;
    const show = (x) => {
      const found = probe(Math.min(box.right, Math.max(box.left, x)));
      if (!found || !found.rows.length) return hide();
      place = found.x;
      cursor.setAttribute("x1", found.x);
      cursor.setAttribute("x2", found.x);
      cursor.setAttribute("visibility", "visible");
      marks.replaceChildren(...found.rows.filter((row) => row.y !== undefined).map((row) =>
        svg("circle", { class: "dot", cx: row.x ?? found.x, cy: row.y, r: 4, style: `--c: ${row.colour}` })));
      const rows = found.rows.slice(0, 12).map((row) => {
        const swatch = html("span", { className: "swatch" });
        swatch.style.setProperty("--c", row.colour);
        return html("div", {}, html("span", {}, swatch, row.name), html("span", { textContent: row.text }));
      });
      tip.replaceChildren(html("b", { textContent: found.title }), ...rows);
      tip.hidden = false;
      const left = host.offsetLeft + found.x * host.clientWidth / box.width;
      const isLeft = left + 14 + tip.offsetWidth > made.clientWidth;
      tip.style.left = `${Math.max(4, isLeft ? left - 14 - tip.offsetWidth : left + 14)}px`;
      tip.style.top = `${host.offsetTop + 8}px`;
    };
    const hide = () => {
      tip.hidden = true;
      marks.replaceChildren();
      cursor.setAttribute("visibility", "hidden");
    };
    canvas.addEventListener("pointermove", (event) => {
      const frame = canvas.getBoundingClientRect();
      show((event.clientX - frame.left) * box.width / frame.width);
    });
    canvas.addEventListener("pointerleave", hide);
    canvas.addEventListener("blur", hide);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const from = place ?? box.left;
      // As far as it takes to reach another value.
      for (let x = from + 4 * step; x >= box.left - 4 && x <= box.right + 4; x += 4 * step) {
        show(x);
        if (place !== from) break;
      }
    });
  };

  const frame = (canvas, box, x, y) => {
    for (const line of y.lines || y.ticks) {
      canvas.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y.at(line), y2: y.at(line) }));
    }
    for (const tick of y.ticks) {
      canvas.append(svg("text", { x: box.left - 8, y: y.at(tick) + 4, "text-anchor": "end" }, y.text(tick)));
    }
    for (const tick of x.ticks) {
      canvas.append(svg("line", { class: "grid", x1: x.at(tick), x2: x.at(tick), y1: box.top, y2: box.bottom }));
      // The last one may be wider than the margin beside it.
      const middle = Math.min(x.at(tick), box.width - 3.6 * x.text(tick).length);
      canvas.append(svg("text", { x: middle, y: box.bottom + 19, "text-anchor": "middle" }, x.text(tick)));
    }
    canvas.append(svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
    canvas.append(svg("text", { x: (box.left + box.right) / 2, y: box.bottom + 39, "text-anchor": "middle" }, x.title));
  };

  // A path through the points; null breaks it.
  const path = (points) => {
    let text = "", pen = "M";
    for (const point of points) {
      if (point) { text += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`; pen = "L"; } else pen = "M";
    }
    return text;
  };
  const curve = (canvas, points, colour, metric) => {
    const style = `--c: ${colour}; stroke-width: ${metric.width}px; stroke-dasharray: ${metric.dash || "none"}`;
    canvas.append(svg("path", { class: "curve", d: path(points), style }));
    // A point alone between two gaps has no line.
    points.filter((point, index) => point && !points[index - 1] && !points[index + 1])
      .forEach(([cx, cy]) => canvas.append(svg("circle", { class: "dot", cx, cy, r: 3.5, style: `--c: ${colour}` })));
  };
  // Labels at the right end, moved apart where they would cover each other.
  const endLabels = (canvas, box, labels) => {
    labels.sort((a, b) => a.y - b.y);
    labels.forEach((label, index) => {
      if (index && label.y < labels[index - 1].y + 14) label.y = labels[index - 1].y + 14;
      canvas.append(svg("text", { class: "label", x: box.right + 6, y: label.y + 4, style: `--c: ${label.colour}` }, label.text));
    });
  };

  const chip = (host, label, metric, isOn, onChange) => {
    const button = html("button", { type: "button" });
    button.setAttribute("aria-pressed", isOn);
    if (metric) {
      const line = svg("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" });
      line.append(svg("path", { d: "M1 4H23", fill: "none", stroke: "currentColor", "stroke-width": metric.width, "stroke-dasharray": metric.dash || "none" }));
      button.append(line);
    }
    button.append(label);
    button.addEventListener("click", onChange);
    host.append(button);
    return button;
  };
  // Chips of which any may be on.
  const choice = (host, metrics, on, paint) => {
    for (const metric of metrics) {
      const button = chip(host, metric.key, metric, on.has(metric.key), () => {
        if (!on.delete(metric.key)) on.add(metric.key);
        button.setAttribute("aria-pressed", on.has(metric.key));
        paint();
      });
    }
  };

  const shownRuns = () => data.runs.map((run, index) => ({ ...run, index })).filter((run) => isShown(run.index));
  const labelOf = (run, what, runs) => (runs.length > 1 && what ? `${run.name}, ${what}` : what || run.name);

  const drawPercentiles = () => {
    const state = { kind: "all" };
    const chart = figure("Latency by percentile", "How long the slowest of every 10, 100, 1,000 requests take: each step to the right is one more nine.",
      "Latency by percentile; the figures are in the table above", (canvas, box) => {
        const runs = shownRuns().filter((run) => (run.curves[state.kind] || []).length);
        const room = (box.bottom - box.top) / 22;
        const y = logAxis(runs.flatMap((run) => run.curves[state.kind].map((point) => point[1])), room);
        if (!y) return null;
        const nines = Math.max(2, ...runs.map((run) => run.curves[state.kind].at(-1)[0]));
        y.at = logScale(y.from, y.to, box.bottom, box.top);
        y.text = time;
        const x = { at: linear(0, nines, box.left, box.right), title: "percentile", ticks: [], text: (tick) => percent(tick) };
        for (let tick = 0; tick <= nines; tick++) x.ticks.push(tick);
        if ((box.right - box.left) / nines > 130) x.ticks.splice(1, 0, Math.log10(2));
        if ((box.right - box.left) / nines < 62) x.ticks = x.ticks.filter((tick) => tick !== 0 || nines < 5);
        frame(canvas, box, x, y);
        for (const run of runs) curve(canvas, run.curves[state.kind].map(([at, ns]) => [x.at(at), y.at(Math.max(ns, y.from))]), run.colour, METRICS[0]);
        if (runs.length === 1 && box.right < box.width - 40) {
          const [, ns] = runs[0].curves[state.kind].at(-1);
          endLabels(canvas, box, [{ y: y.at(ns), text: time(ns), colour: runs[0].colour }]);
        }
        return (px) => {
          const at = (px - box.left) / (box.right - box.left) * nines;
          const rows = runs.flatMap((run) => {
            const found = run.curves[state.kind].find((point) => point[0] >= at - 1e-9);
            return found ? [{ name: run.name, text: time(found[1]), y: y.at(found[1]), colour: run.colour }] : [];
          });
          return { x: px, title: percent(at), rows };
        };
      });
    const kinds = [...new Set(data.runs.flatMap((run) => Object.keys(run.curves)))];
    if (kinds.length < 3) return;
    const buttons = kinds.map((kind) => chip(chart.chips, kind.replace("_", " "), null, kind === "all", () => {
      state.kind = kind;
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", kinds[index] === kind));
      chart.paint();
    }));
  };

  const nearest = (series, at) => series.reduce((best, one) => (Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best));
  const secondsAxis = (runs, box) => {
    const end = Math.max(...runs.flatMap((run) => run.series.map((one) => one[0] + one[1] / 2)));
    const x = timeAxis(end, (box.right - box.left) / 70);
    return { ...x, at: linear(0, x.to, box.left, box.right), text: clock, title: "time since the measurement began" };
  };
  // What is near a place, for charts over time.
  const probeSeries = (runs, x, box, rowsOf) => (px) => {
    const at = (px - box.left) / (box.right - box.left) * x.to;
    const anchor = nearest(runs.map((run) => nearest(run.series, at)), at);
    return { x: x.at(anchor[0]), title: `at ${clock(anchor[0])}`, rows: runs.flatMap((run) => rowsOf(run, nearest(run.series, anchor[0]))) };
  };

  const drawLatencies = () => {
    const on = new Set(data.runs.filter((run) => run.shown).length > 1 ? ["p50", "p99"] : ["p50", "p99", "max"]);
    const chart = figure("Latency over time", "Each point is a stretch of the run, all kinds of requests together. A gap: no request ended.",
      "Latency over time", (canvas, box) => {
        const metrics = METRICS.filter((metric) => on.has(metric.key));
        const runs = shownRuns().filter((run) => run.series.length);
        const room = (box.bottom - box.top) / 22;
        const y = logAxis(runs.flatMap((run) => run.series.flatMap((one) => metrics.map((metric) => one[metric.at]))), room);
        if (!y) return null;
        y.at = logScale(y.from, y.to, box.bottom, box.top);
        y.text = time;
        const x = secondsAxis(runs, box);
        frame(canvas, box, x, y);
        const labels = [];
        for (const run of runs) {
          const points = (metric) => run.series.map((one) => (one[2] ? [x.at(one[0]), y.at(Math.max(one[metric.at], y.from))] : null));
          // Bands on top of each other would be mud.
          if (runs.length < 3 && on.has("p50") && on.has("p99")) {
            const [low, high] = [points(METRICS[0]), points(METRICS[1])];
            for (let from = 0; from < low.length; from++) {
              let to = from;
              while (to < low.length && low[to]) to++;
              if (to > from + 1) canvas.append(svg("path", { class: "band", d: `${path([...high.slice(from, to), ...low.slice(from, to).reverse()])}Z`, style: `--c: ${run.colour}` }));
              from = to;
            }
          }
          for (const metric of metrics) {
            const line = points(metric);
            curve(canvas, line, run.colour, metric);
            const last = line.findLast((point) => point);
            if (runs.length === 1 && last) labels.push({ y: last[1], text: metric.key, colour: run.colour });
          }
        }
        if (box.right < box.width - 40) endLabels(canvas, box, labels);
        return probeSeries(runs, x, box, (run, one) => (one[2] ? metrics.map((metric) => ({
          name: labelOf(run, metric.key, runs), text: time(one[metric.at]), x: x.at(one[0]), y: y.at(one[metric.at]), colour: run.colour,
        })) : [{ name: run.name, text: "no request ended", colour: run.colour }]));
      });
    choice(chart.chips, METRICS, on, () => chart.paint());
  };

  const drawRates = () => {
    figure("Requests per second over time", "All kinds of requests together.", "Requests per second over time", (canvas, box) => {
      const runs = shownRuns().filter((run) => run.series.length);
      if (!runs.length) return null;
      const rate = (one) => (one[1] ? one[2] / one[1] : 0);
      const y = linearAxis(Math.max(...runs.flatMap((run) => run.series.map(rate))), (box.bottom - box.top) / 48);
      y.at = linear(y.from, y.to, box.bottom, box.top);
      y.text = count;
      const x = secondsAxis(runs, box);
      frame(canvas, box, x, y);
      for (const run of runs) {
        const line = run.series.map((one) => [x.at(one[0]), y.at(rate(one))]);
        if (runs.length === 1 && line.length > 1) {
          const floor = [[line.at(-1)[0], y.at(0)], [line[0][0], y.at(0)]];
          canvas.append(svg("path", { class: "band", d: `${path([...line, ...floor])}Z`, style: `--c: ${run.colour}` }));
        }
        curve(canvas, line, run.colour, METRICS[0]);
      }
      return probeSeries(runs, x, box, (run, one) => [{
        name: run.name, text: `${count(rate(one))}/s`, x: x.at(one[0]), y: y.at(rate(one)), colour: run.colour,
      }]);
    });
  };

  const drawSweep = () => {
    const metrics = METRICS.slice(0, 3).map((metric, index) => ({ ...metric, at: 1 + index }));
    const on = new Set(data.sweeps.length > 1 ? ["p99"] : ["p50", "p99", "p99.9"]);
    const chart = figure("Latency against throughput", "Each point is a run at one rate. The knee is the last before latency takes off; hollow points did not reach the rate that was asked for.",
      "Latency against throughput", (canvas, box) => {
        const shown = metrics.filter((metric) => on.has(metric.key));
        const room = (box.bottom - box.top) / 22;
        const y = logAxis(data.sweeps.flatMap((sweep) => sweep.points.flatMap((point) => shown.map((metric) => point[metric.at]))), room);
        if (!y) return null;
        y.at = logScale(y.from, y.to, box.bottom, box.top);
        y.text = time;
        const most = Math.max(...data.sweeps.flatMap((sweep) => sweep.points.map((point) => point[0])));
        const x = { ...linearAxis(most, (box.right - box.left) / 90), text: count, title: "requests per second reached" };
        x.at = linear(0, Math.max(most * 1.04, 1), box.left, box.right);
        x.ticks = x.ticks.filter((tick) => tick <= most * 1.04);
        frame(canvas, box, x, y);
        const labels = [];
        for (const sweep of data.sweeps) {
          const points = sweep.points.filter((point) => point[1] > 0);
          for (const metric of shown) {
            const line = points.map((point) => [x.at(point[0]), y.at(point[metric.at])]);
            if (!line.length) continue;
            curve(canvas, line, sweep.colour, metric);
            line.forEach(([cx, cy], index) => canvas.append(svg("circle", { class: points[index][4] ? "hollow" : "dot", cx, cy, r: 4, style: `--c: ${sweep.colour}` })));
            if (data.sweeps.length === 1) labels.push({ y: line.at(-1)[1], text: metric.key, colour: sweep.colour });
          }
        }
        for (const sweep of data.sweeps) {
          const knee = sweep.knee === null ? null : sweep.points[sweep.knee];
          const metric = shown.find((one) => one.key === "p99") || shown[0];
          if (!knee || !metric) continue;
          const [cx, cy] = [x.at(knee[0]), y.at(knee[metric.at])];
          const isRight = cx > (box.left + box.right) / 2;
          canvas.append(svg("line", { class: "cursor", x1: cx, x2: cx, y1: cy + 9, y2: box.bottom }));
          canvas.append(svg("circle", { class: "ring", cx, cy, r: 8.5 }));
          const text = `knee: ${count(knee[0])}/s, ${metric.key} ${time(knee[metric.at])}`;
          canvas.append(svg("text", { class: "label", x: cx + (isRight ? -14 : 14), y: cy + (isRight ? -9 : 20), "text-anchor": isRight ? "end" : "start", style: `--c: ${data.sweeps.length > 1 ? sweep.colour : "var(--ink)"}` }, text));
        }
        if (box.right < box.width - 40) endLabels(canvas, box, labels);
        return (px) => {
          const at = (px - box.left) / (box.right - box.left) * Math.max(most * 1.04, 1);
          const anchor = nearest(data.sweeps.map((sweep) => nearest(sweep.points, at)), at);
          const rows = data.sweeps.flatMap((sweep) => {
            const point = nearest(sweep.points, anchor[0]);
            return shown.map((metric) => ({
              name: data.sweeps.length > 1 ? `${sweep.name}, ${metric.key}` : metric.key,
              text: time(point[metric.at]), x: x.at(point[0]), y: y.at(point[metric.at]), colour: sweep.colour,
            }));
          });
          return { x: x.at(anchor[0]), title: `${count(anchor[0])}/s${anchor[4] ? ", less than asked for" : ""}`, rows };
        };
      });
    choice(chart.chips, metrics, on, () => chart.paint());
  };

  const drawRuns = () => {
    if (data.runs.length < 2) return;
    const host = html("div", { className: "runs" });
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", "Runs in the charts");
    const buttons = data.runs.map((run, index) => {
      const swatch = html("span", { className: "swatch" });
      swatch.style.setProperty("--c", run.colour);
      const button = html("button", { type: "button", title: run.name }, swatch, run.name);
      button.addEventListener("click", () => { visible[index] = !visible[index]; refresh(); });
      button.addEventListener("dblclick", () => { visible.fill(false); visible[index] = true; refresh(); });
      return button;
    });
    const refresh = () => {
      buttons.forEach((button, index) => button.setAttribute("aria-pressed", isShown(index)));
      drawn.forEach((paint) => paint());
    };
    host.append(...buttons, html("span", { className: "hint", textContent: "click: on or off, twice: only this one" }));
    document.getElementById("charts").append(host);
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", isShown(index)));
  };

  if (data.sweeps.length) drawSweep();
  drawRuns();
  drawPercentiles();
  drawLatencies();
  drawRates();
  drawn.forEach((paint) => paint());
})();
