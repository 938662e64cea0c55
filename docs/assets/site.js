// Draws the figures that the build has put into the page, in the colours of the page's theme, and lets keys scroll tables.
(() => {
  const script = document.currentScript.src;
  const reach = () => {
    for (const one of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code, .highlight-ipynb, .jp-OutputArea-output")) one.tabIndex = 0;
  };
  reach();
  new MutationObserver(reach).observe(document.body, { childList: true, subtree: true });
  const places = document.querySelectorAll(".figure");
  if (!places.length) return;
  const themed = () => {
    const style = getComputedStyle(document.body);
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style.getPropertyValue("--md-default-fg-color").trim() || style.color },
    };
  };
  // A title is as wide as its place. title.js is the package's own.
  const wrapped = (layout, width) => {
    const lines = titleLines(layout.title?.text ?? "", width);
    return { title: { ...layout.title, text: lines.join("<br>") }, margin: { ...layout.margin, t: 60 + 22 * lines.length } };
  };
  const draw = () => {
    for (const place of places) {
      const { data, layout, frames } = JSON.parse(place.querySelector("script").textContent);
      const line = getComputedStyle(document.body).getPropertyValue("--md-default-fg-color--lightest").trim();
      for (const name of Object.keys(layout)) {
        if (/^[xy]axis/.test(name)) Object.assign(layout[name], { gridcolor: line, zerolinecolor: line });
      }
      let canvas = place.querySelector(".canvas");
      if (!canvas) {
        canvas = document.createElement("div");
        canvas.className = "canvas";
        place.append(canvas);
      }
      const config = { responsive: true, displaylogo: false };
      Plotly.react(canvas, data, { ...layout, ...wrapped(layout, canvas.clientWidth), ...themed() }, config).then(() => frames && Plotly.addFrames(canvas, frames));
    }
  };
  const plotly = document.createElement("script");
  plotly.src = script.replace("site.js", "plotly.min.js");
  plotly.onload = () => {
    draw();
    new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
  };
  document.head.append(plotly);
})();
