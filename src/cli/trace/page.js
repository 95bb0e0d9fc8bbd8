
"use strict";
(() => {
  const rows = document.getElementById("rows");
  const scroll = rows.closest(".scroll");
  const zoom = document.getElementById("zoom");
  const filter = document.getElementById("filter");
  const waited = document.getElementById("waited");
  const total = Number(rows.dataset.total);
  const label = () => rows.querySelector("th").offsetWidth;
  const fitting = () => Math.max(200, scroll.clientWidth - label() - 20) / total;
  // From all of it to 200 pixels a millisecond, or a hundred times as large.
  const scale = () => fitting() * Math.pow(Math.max(100, 200 / fitting()), zoom.value / 100);
  const said = (ms) => (ms >= 10000 ? ms / 1000 + " s" : Number(ms.toFixed(3)) + " ms");

  function draw() {
    const px = scale();
    const raw = 90 / px;
    const power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = [1, 2, 5, 10].find((one) => one * power >= raw) * power;
    rows.style.setProperty("--px", px);
    rows.style.setProperty("--step", step);
    const ticks = [];
    for (let tick = 0; tick < Math.min(total / step, 2000); tick += 1) {
      const mark = document.createElement("span");
      mark.style.setProperty("--at", tick * step);
      mark.textContent = tick === 0 ? "0" : said(tick * step);
      ticks.push(mark);
    }
    document.getElementById("axis").replaceChildren(...ticks);
  }

  // What is under the pointer, or in the middle, stays where it is.
  function zoomTo(value, x) {
    const before = scale();
    const at = (scroll.scrollLeft + x) / before;
    zoom.value = value;
    draw();
    scroll.scrollLeft = at * scale() - x;
  }

  function choose() {
    const part = filter.value.toLowerCase();
    let count = 0;
    for (const row of rows.tBodies[0].rows) {
      const file = row.querySelector(".file");
      if (!file) continue;
      const isShown = file.textContent.toLowerCase().includes(part) && (!waited.checked || row.classList.contains("waited"));
      row.hidden = !isShown;
      count += isShown ? 1 : 0;
    }
    document.getElementById("count").textContent = count + " shown";
  }

  let value = zoom.value;
  zoom.addEventListener("input", () => {
    const wanted = zoom.value;
    zoom.value = value;
    zoomTo(wanted, (scroll.clientWidth - label()) / 2);
    value = wanted;
  });
  scroll.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomTo(Math.min(100, Math.max(0, Number(zoom.value) - Math.sign(event.deltaY) * 4)), event.clientX - scroll.getBoundingClientRect().left - label());
    value = zoom.value;
  }, { passive: false });
  filter.addEventListener("input", choose);
  waited.addEventListener("change", choose);
  window.addEventListener("resize", draw);
  draw();
  choose();
})();
