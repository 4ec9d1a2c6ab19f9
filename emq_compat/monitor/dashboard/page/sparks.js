// Lines of the last points of a rate.

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 90;

export function spark() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${POINTS} 24`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const name of ["area", "line"]) {
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("class", name);
    svg.append(line);
  }
  return svg;
}

export function draw(svg, points, label = "") {
  const most = Math.max(1, ...points);
  const first = POINTS - points.length;
  const line = points.map((point, i) => `${first + i},${(22.5 - (21 * point) / most).toFixed(1)}`).join(" ");
  svg.querySelector(".line").setAttribute("points", line);
  svg.querySelector(".area").setAttribute("points", points.length ? `${first},24 ${line} ${POINTS - 1},24` : "");
  if (label) svg.setAttribute("aria-label", label);
}

export function add(points, point) {
  points.push(point);
  if (points.length > POINTS) points.splice(0, points.length - POINTS);
  return points;
}
