// Plotly's own hover labels hold text only, so the picture is laid over the page.
const left = new WeakMap();

export default function (component) {
  // Called at every change of the data, but what it returns only when the page goes.
  left.get(component.parentElement)?.();
  const image = document.createElement("img");
  Object.assign(image.style, {
    position: "fixed", display: "none", zIndex: 1000, width: "128px", height: "128px", objectFit: "contain", pointerEvents: "none",
    background: "#222", border: "2px solid #0f8a7e", borderRadius: "6px",
  });
  image.alt = "Image under the pointer";
  document.body.append(image);
  let plot = null;
  const over = (event) => {
    const point = event.points[0], at = event.event;
    if (point.customdata === undefined) return;
    image.src = `/runs/${component.data.run}/pictures/${point.customdata}`;
    image.style.left = `${Math.min(at.clientX + 16, innerWidth - 150)}px`;
    image.style.top = `${Math.min(at.clientY + 16, innerHeight - 150)}px`;
    image.style.display = "block";
  };
  const out = () => { image.style.display = "none"; };
  const polling = setInterval(() => {
    const shown = document.querySelector(".js-plotly-plot");
    if (!shown?.on || shown === plot) return;
    plot = shown;
    plot.on("plotly_hover", over);
    plot.on("plotly_unhover", out);
  }, 300);
  const leave = () => {
    clearInterval(polling);
    image.remove();
    plot?.removeListener?.("plotly_hover", over);
    plot?.removeListener?.("plotly_unhover", out);
  };
  left.set(component.parentElement, leave);
  return leave;
}
