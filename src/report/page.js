// Reads the lines out where the pointer is: a dashed line in the chart, the values beside its title.
for (const svg of document.querySelectorAll("svg[data-high]")) {
  const [left, right, high] = ["left", "right", "high"].map((k) => +svg.dataset[k]);
  const lines = [...svg.querySelectorAll("polyline")].map((l) => ({
    name: l.dataset.name,
    x: l.dataset.x.split(" ").map(Number),
    y: l.dataset.y.split(" ").map(Number),
  }));
  const cross = svg.querySelector(".cross");
  const out = svg.closest("figure").querySelector("output");
  const show = (at) => { cross.setAttribute("x1", at); cross.setAttribute("x2", at); };
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect();
    const at = Math.min(right, Math.max(left, ((e.clientX - box.left) / box.width) * svg.viewBox.baseVal.width));
    const want = ((at - left) / (right - left)) * high;
    show(at);
    out.textContent = lines.filter((l) => l.x.length && l.x[0]).map((l) => {
      let i = l.x.findIndex((x) => x >= want);
      if (i < 0) i = l.x.length - 1;
      return (lines.length > 1 ? l.name + " " : "") + Number(l.y[i].toPrecision(4));
    }).join(" · ");
  });
  svg.addEventListener("pointerleave", () => { show(-9); out.textContent = ""; });
}
