"use strict";
// Slices of a case in three planes. Arrays are in RAS order: voxel (x, y, z) lies at x + nx * (y + ny * z), and x, y, z run
// to the patient's right, front and head. Pictures are as radiologists see them, from the feet, the front and the left, so
// that every array axis runs backwards in them.
(() => {
  const byId = (id) => document.getElementById(id);
  const { cases: encoded, outlines } = JSON.parse(byId("shown").textContent);
  // Which array axis runs across, down and through each picture.
  const planes = {
    axial: { across: 0, down: 1, through: 2 },
    coronal: { across: 0, down: 2, through: 1 },
    sagittal: { across: 1, down: 2, through: 0 },
  };
  const state = { volume: null, channel: 0, position: [0, 0, 0] };
  const decoded = new Map();

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function decode(index) {
    if (!decoded.has(index)) {
      const v = encoded[index];
      const channels = await Promise.all(v.channels.map(async (c) => ({ ...c, image: await unpack(c.image) })));
      decoded.set(index, { ...v, channels, truth: await unpack(v.truth), prediction: await unpack(v.prediction) });
    }
    return decoded.get(index);
  }

  // The slice with the largest shares of the true classes along each axis, else of the predicted ones, else the middle.
  function interesting(v) {
    const [nx, ny, nz] = v.shape;
    const labels = v.truth.some((label) => label) ? v.truth : v.prediction;
    const counts = new Float64Array(256);
    for (const label of labels) counts[label]++;
    const found = v.shape.map((n) => new Float64Array(n));
    for (let z = 0, i = 0; z < nz; z++) for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++, i++) {
      const label = labels[i];
      if (!label) continue;
      const weight = 1 / counts[label];
      found[0][x] += weight; found[1][y] += weight; found[2][z] += weight;
    }
    return found.map((sums, axis) => {
      const best = sums.reduce((a, s, i) => (s > sums[a] ? i : a), 0);
      return sums[best] ? best : v.shape[axis] >> 1;
    });
  }

  function geometry(name) {
    const p = planes[name], v = state.volume;
    const columns = v.shape[p.across], rows = v.shape[p.down];
    return { p, columns, rows, width: columns * v.spacing[p.across], height: rows * v.spacing[p.down] };
  }

  function voxel(p, column, row, columns, rows) {
    const place = [0, 0, 0];
    place[p.across] = columns - 1 - column;
    place[p.down] = rows - 1 - row;
    place[p.through] = state.position[p.through];
    const [nx, ny] = state.volume.shape;
    return place[0] + nx * (place[1] + ny * place[2]);
  }

  function draw(name) {
    const canvas = byId(name), v = state.volume, { p, columns, rows, width, height } = geometry(name);
    const pixels = Math.max(1, Math.round(canvas.clientWidth * Math.min(window.devicePixelRatio || 1, 2)));
    canvas.width = canvas.height = pixels;
    const context = canvas.getContext("2d");
    const picture = new ImageData(columns, rows), channel = v.channels[state.channel];
    const labels = { truth: new Uint8Array(columns * rows), prediction: new Uint8Array(columns * rows) };
    const [, level, wide] = channel.windows[byId("window").selectedIndex];
    for (let row = 0, i = 0; row < rows; row++) for (let column = 0; column < columns; column++, i++) {
      const at = voxel(p, column, row, columns, rows);
      const value = channel.low + (channel.image[at] / 255) * (channel.high - channel.low);
      const grey = Math.max(0, Math.min(255, ((value - level) / wide + 0.5) * 255));
      picture.data.set([grey, grey, grey, 255], 4 * i);
      labels.truth[i] = v.truth[at];
      labels.prediction[i] = v.prediction[at];
    }
    const small = document.createElement("canvas");
    small.width = columns; small.height = rows;
    small.getContext("2d").putImageData(picture, 0, 0);
    const scale = pixels / Math.max(width, height);
    const [w, h] = [width * scale, height * scale], [x0, y0] = [(pixels - w) / 2, (pixels - h) / 2];
    context.imageSmoothingQuality = "high";
    context.drawImage(small, x0, y0, w, h);
    const unit = pixels / canvas.clientWidth;
    for (const line of outlines) {
      const box = line.group === null ? null : document.querySelector(`input[data-class="${line.group}"]`);
      if (!byId(line.labels).checked || (box && !box.checked)) continue;
      outline(context, labels[line.labels], columns, rows, (l) => line.values.includes(l), w / columns, h / rows, x0, y0);
      context.strokeStyle = line.colour;
      context.lineWidth = line.width * unit;
      context.setLineDash(line.dashed ? [5 * unit, 2.5 * unit] : []);
      context.stroke();
    }
    const slice = state.position[p.through], count = v.shape[p.through];
    canvas.setAttribute("aria-valuemin", 1);
    canvas.setAttribute("aria-valuemax", count);
    canvas.setAttribute("aria-valuenow", slice + 1);
    const range = document.querySelector(`input[data-plane=${name}]`);
    range.max = count;
    range.value = slice + 1;
    document.querySelector(`output[data-plane=${name}]`).textContent = `${slice + 1} / ${count}`;
  }

  // The edges between voxels inside and outside, joined along rows and columns so that dashes run through.
  function outline(context, labels, columns, rows, inside, dx, dy, x0, y0) {
    const at = (c, r) => c >= 0 && r >= 0 && c < columns && r < rows && inside(labels[c + columns * r]);
    context.beginPath();
    for (let r = 0; r <= rows; r++) for (let c = 0, start = -1; c <= columns; c++) {
      const edge = c < columns && at(c, r) !== at(c, r - 1);
      if (edge && start < 0) start = c;
      if (!edge && start >= 0) {
        context.moveTo(x0 + start * dx, y0 + r * dy);
        context.lineTo(x0 + c * dx, y0 + r * dy);
        start = -1;
      }
    }
    for (let c = 0; c <= columns; c++) for (let r = 0, start = -1; r <= rows; r++) {
      const edge = r < rows && at(c, r) !== at(c - 1, r);
      if (edge && start < 0) start = r;
      if (!edge && start >= 0) {
        context.moveTo(x0 + c * dx, y0 + start * dy);
        context.lineTo(x0 + c * dx, y0 + r * dy);
        start = -1;
      }
    }
  }

  const drawAll = () => state.volume && Object.keys(planes).forEach(draw);

  function move(name, slice) {
    const axis = planes[name].through;
    state.position[axis] = Math.max(0, Math.min(state.volume.shape[axis] - 1, slice));
    draw(name);
  }

  // The windows of the channel; the one that was chosen stays if the channel has it.
  function offerWindows() {
    const select = byId("window"), before = select.value;
    const names = state.volume.channels[state.channel].windows.map(([name]) => name);
    select.replaceChildren(...names.map((name) => new Option(name)));
    select.selectedIndex = Math.max(0, names.indexOf(before));
  }

  async function show(index) {
    byId("case").selectedIndex = index;
    const volume = await decode(index);
    if (byId("case").selectedIndex !== index) return; // another case was chosen meanwhile
    state.volume = volume;
    state.position = interesting(volume);
    offerWindows();
    const same = volume.shape.every((n, i) => n === volume.original[i]);
    const size = (shape) => shape.join(" × ");
    byId("grid").textContent = same ? `${size(volume.shape)} voxels.`
      : `Shown at ${size(volume.shape)} voxels, resampled from ${size(volume.original)}.`;
    drawAll();
    byId("viewer").dataset.ready = volume.case;
  }

  function centre(name, event) {
    const canvas = byId(name), { p, columns, rows, width, height } = geometry(name);
    const box = canvas.getBoundingClientRect(), longest = Math.max(width, height);
    const along = (pixel, length, side, count) => Math.floor(((pixel / side - 0.5) * longest / length + 0.5) * count);
    const column = along(event.clientX - box.left, width, box.width, columns);
    const row = along(event.clientY - box.top, height, box.height, rows);
    if (column < 0 || row < 0 || column >= columns || row >= rows) return;
    state.position[p.across] = columns - 1 - column;
    state.position[p.down] = rows - 1 - row;
    drawAll();
  }

  for (const name of Object.keys(planes)) {
    const canvas = byId(name);
    let from = null;
    canvas.addEventListener("keydown", (event) => {
      const now = state.position[planes[name].through], last = state.volume.shape[planes[name].through] - 1;
      const to = { ArrowUp: now + 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowLeft: now - 1,
        PageUp: now + 10, PageDown: now - 10, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      move(name, to);
    });
    canvas.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, slice: state.position[planes[name].through], moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const by = event.clientX - from.x;
      if (Math.abs(by) < 4 && !from.moved) return;
      from.moved = true;
      move(name, from.slice + Math.round(by / canvas.clientWidth * state.volume.shape[planes[name].through]));
    });
    canvas.addEventListener("pointerup", (event) => {
      if (from && !from.moved) centre(name, event);
      from = null;
    });
    canvas.addEventListener("pointercancel", () => { from = null; });
    document.querySelector(`input[data-plane=${name}]`)
      .addEventListener("input", (event) => move(name, Number(event.target.value) - 1));
  }
  byId("case").addEventListener("change", (event) => show(event.target.selectedIndex));
  byId("channel").addEventListener("change", (event) => {
    state.channel = event.target.selectedIndex;
    offerWindows();
    drawAll();
  });
  const boxes = document.querySelectorAll("#window, #truth, #prediction, input[data-class]");
  for (const box of boxes) box.addEventListener("change", drawAll);
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      show(encoded.findIndex((v) => v.case === button.dataset.show));
      byId("viewer").scrollIntoView({ block: "start" });
      byId("axial").focus({ preventScroll: true });
    });
  }
  window.addEventListener("resize", drawAll);
  show(0);
})();
