'use strict';
// The pages of a run. What a page or a model wrote is text, never markup.
const data = JSON.parse(document.getElementById('data').textContent);
const $ = (query, root = document) => root.querySelector(query);
const SVG = 'http://www.w3.org/2000/svg';

function make(name, fields = {}, ...inside) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(fields)) {
    if (key === 'style') node.style.cssText = value;
    else if (key.startsWith('on')) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...inside.filter(x => x !== null && x !== undefined));
  return node;
}

function draw(name, fields = {}, text = '') {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(fields))
    node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

function short(value) {
  if (value === null || value === undefined) return '–';
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size && (size < .001 || size >= 1e5) ? value.toExponential(1) :
      String(Number(value.toPrecision(3)));
}

const tip = make('div', {id: 'tip', hidden: ''});
document.body.append(tip);
function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - width - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${event.clientY + 18 + height > innerHeight ?
      event.clientY - height - 10 : event.clientY + 18}px`;
}
const hideTip = () => { tip.hidden = true; };

// ---- Curves: all share what is zoomed to.
const charts = [];
let zoom = null;

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(x => x * power >= raw) * power;
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step)
    found.push(Number(x.toPrecision(12)));
  return found;
}

class Chart {
  constructor(root, spec) {
    this.root = root;
    this.spec = spec;
    this.legend = $('.legend', root.parentNode);
    this.svg = draw('svg');
    root.append(this.svg);
    // Areas stand on one another; lines are as they are.
    this.series = spec.series.map(x => ({...x, shown: x.values}));
    if (spec.stacked)
      for (let i = 1; i < this.series.length; i++)
        this.series[i].shown = this.series[i].values.map(
            ([x, y], j) => [x, y + this.series[i - 1].shown[j][1]]);
    root.onpointermove = event => this.move(event);
    root.onpointerleave = () => { if (!this.from) this.say(null); };
    root.onpointerdown = event => {
      if (event.pointerType === 'touch') return;
      this.from = this.at(event);
      root.setPointerCapture(event.pointerId);
    };
    root.onpointerup = event => {
      const ends = [this.from, this.at(event)].sort((a, b) => a - b);
      const wide = this.from !== null && this.from !== undefined &&
          ends[1] - ends[0] > .01 * (this.x1 - this.x0);
      this.from = null;
      if (wide) setZoom(ends); else this.render();
    };
    root.ondblclick = () => setZoom(null);
    new ResizeObserver(() => this.render()).observe(root);
  }

  at(event) {
    const box = this.root.getBoundingClientRect();
    const share = (event.clientX - box.left - 40) / (box.width - 48);
    return this.x0 + Math.min(1, Math.max(0, share)) * (this.x1 - this.x0);
  }

  render() {
    const {width, height} = this.root.getBoundingClientRect();
    if (!width) return;
    [this.x0, this.x1] = zoom || data.span;
    const inside = ([x]) => x >= this.x0 && x <= this.x1;
    const values = this.series.flatMap(
        s => s.shown.filter(inside).map(([, y]) => y));
    let low = Math.min(...values), high = Math.max(...values);
    if (!values.length) [low, high] = [0, 1];
    // One round that compiles shall not flatten the others.
    const sorted = values.toSorted((a, b) => a - b);
    const usual = sorted[Math.floor(.9 * sorted.length)];
    if (!this.spec.stacked && usual > 0 && high > 8 * usual) high = 2 * usual;
    if (this.spec.zero || low > 0 && low < .4 * high) low = Math.min(0, low);
    if (this.spec.share) [low, high] = [0, 1];
    if (low === high) [low, high] = [low - .5, high + .5];
    const X = x => 40 + (x - this.x0) / (this.x1 - this.x0) * (width - 48);
    const Y = y => height - 22 -
        (Math.min(y, high) - low) / (high - low) * (height - 32);
    this.X = X; this.Y = Y; this.size = [width, height];
    const parts = [];
    for (const y of ticks(low, high, 4)) {
      parts.push(draw('line', {
        class: 'grid', x1: 40, x2: width - 8, y1: Y(y), y2: Y(y)}));
      parts.push(draw('text', {x: 34, y: Y(y) + 4, 'text-anchor': 'end'},
          this.spec.share ? `${Math.round(100 * y)}%` : short(y)));
    }
    for (const x of ticks(this.x0, this.x1, 5))
      parts.push(draw('text', {
        x: X(x), y: height - 4, 'text-anchor': 'middle'}, short(x)));
    for (const i of this.series.keys())
      parts.push(...this.curve(i, low));
    this.svg.replaceChildren(...parts);
    this.say(null);
  }

  curve(i, low) {
    const {shown, dots} = this.series[i];
    const colour = `var(--c${this.series[i].colour})`;
    const padding = this.series[i].values.length > 1 ?
        Math.abs(shown[1][0] - shown[0][0]) : 0;
    const seen = shown.filter(([x]) => x >= this.x0 - padding &&
                              x <= this.x1 + padding);
    const line = seen.map(([x, y], j) =>
        `${j ? 'L' : 'M'}${this.X(x).toFixed(1)} ${this.Y(y).toFixed(1)}`);
    if (!line.length) return [];
    if (this.spec.stacked) {
      const below = seen.map(([x], j) => [x, i ?
          this.series[i - 1].shown[shown.indexOf(seen[j])][1] : low]);
      const back = below.reverse().map(([x, y]) =>
          `L${this.X(x).toFixed(1)} ${this.Y(y).toFixed(1)}`);
      return [draw('path', {d: `${line.join('')}${back.join('')}Z`,
        fill: colour, 'fill-opacity': .8})];
    }
    const found = [draw('path', {d: line.join(''), fill: 'none',
      stroke: colour, 'stroke-width': dots ? 2.4 : 1.6,
      'stroke-linejoin': 'round'})];
    if (seen.length > 150) {  // a mean of what is near, over what is
      found[0].setAttribute('stroke-opacity', .25);
      const reach = Math.ceil(seen.length / 60);
      const means = seen.map(([x], j) => {
        const near = seen.slice(Math.max(0, j - reach), j + reach + 1);
        const mean = near.reduce((sum, [, y]) => sum + y, 0) / near.length;
        return `${j ? 'L' : 'M'}${this.X(x).toFixed(1)} ${
            this.Y(mean).toFixed(1)}`;
      });
      found.push(draw('path', {d: means.join(''), fill: 'none',
        stroke: colour, 'stroke-width': 2, 'stroke-linejoin': 'round'}));
    }
    if (dots)
      for (const [x, y] of seen)
        found.push(draw('circle', {
          cx: this.X(x), cy: this.Y(y), r: 3.5, fill: colour}));
    return found;
  }

  move(event) {
    const x = this.at(event);
    this.say(x);
    $('.cross', this.svg)?.remove();
    $('.brush', this.svg)?.remove();
    const height = this.size[1];
    if (this.from !== null && this.from !== undefined) {
      const [a, b] = [this.X(this.from), this.X(x)];
      this.svg.append(draw('rect', {class: 'brush', x: Math.min(a, b), y: 8,
        width: Math.abs(a - b), height: height - 30}));
    }
    this.svg.append(draw('line', {class: 'cross', x1: this.X(x),
      x2: this.X(x), y1: 8, y2: height - 22}));
  }

  say(x) {
    const nodes = this.series.map(({name, colour, values}) => {
      let found = values.filter(([at]) => at <= this.x1).at(-1);
      if (x !== null)
        for (const point of values)
          if (!found || Math.abs(point[0] - x) < Math.abs(found[0] - x))
            found = point;
      const value = found === undefined ? '–' :
          this.spec.share ? `${(100 * found[1]).toFixed(0)}%` : short(found[1]);
      return make('span', {}, make('i', {
        style: `background:var(--c${colour})`}), name, make('b', {}, value));
    });
    if (x !== null)
      nodes.push(make('span', {}, 'round', make('b', {}, short(Math.round(x)))));
    else $('.cross', this.svg)?.remove();
    this.legend.replaceChildren(...nodes);
  }
}

function setZoom(range) {
  zoom = range;
  $('#unzoom').hidden = !range;
  for (const chart of charts) chart.render();
}

// ---- The map: a cell for each task and column.
const VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142],
  [38, 130, 142], [31, 158, 137], [53, 183, 121], [109, 205, 89],
  [180, 222, 44], [253, 231, 37]];
function viridis(share) {
  const place = share * (VIRIDIS.length - 1);
  const i = Math.min(VIRIDIS.length - 2, Math.floor(place));
  return VIRIDIS[i].map((x, k) => x + (place - i) * (VIRIDIS[i + 1][k] - x));
}

function drawMap() {
  const {tasks, layers, columns, step} = data.map;
  const box = $('#map'), canvas = $('canvas', box);
  let layer = 0;
  const named = tasks.length <= 40;
  box.style.setProperty(
      '--names', named ? `${Math.min(150, innerWidth * .3)}px` : '0px');
  const height = named ? 18 * tasks.length : Math.min(520, 1.4 * tasks.length);
  canvas.style.height = `${Math.max(120, height)}px`;
  if (named) tasks.forEach((task, i) => box.append(make('span', {class: 'name',
    title: task, style: `top:calc((100% - 20px) * ${
        (i + .5) / tasks.length})`}, task)));
  for (const x of ticks(0, columns * step, innerWidth < 600 ? 4 : 10))
    if (x < columns * step) box.append(make('span', {class: 'tick',
      style: `left:${100 * x / (columns * step)}%`}, String(x)));
  const bytes = layers.map(x => Uint8Array.from(
      atob(x.cells), c => c.charCodeAt(0)));
  canvas.width = columns;
  canvas.height = tasks.length;
  const colours = Array.from({length: 256}, (_, i) => viridis(i / 255));
  $('.scale i').style.background = `linear-gradient(90deg, ${
      VIRIDIS.map(x => `rgb(${x})`).join(',')})`;
  function paint() {
    const context = canvas.getContext('2d');
    const image = context.createImageData(columns, tasks.length);
    bytes[layer].forEach((value, i) => {
      image.data.set([...colours[value], 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
    const [low, high] = document.querySelectorAll('.scale span');
    low.textContent = layers[layer].low;
    high.textContent = layers[layer].high;
  }
  const at = event => {
    const area = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - area.top) / area.height *
                           tasks.length);
    const column = Math.floor((event.clientX - area.left) / area.width *
                              columns);
    return [Math.min(tasks.length - 1, Math.max(0, row)),
            Math.min(columns - 1, Math.max(0, column))];
  };
  canvas.onpointermove = event => {
    const [row, column] = at(event);
    const share = bytes[layer][row * columns + column] / 255;
    const {top, log, title} = layers[layer];
    const value = log ? Math.expm1(share * Math.log1p(top)) : share * top;
    showTip(event, `${tasks[row]}\nround ${column * step}: ${title} ${
        log ? short(Number(value.toPrecision(2))) :
        `${Math.round(100 * value)}%`}`);
  };
  canvas.onpointerleave = hideTip;
  canvas.onclick = event => {
    $('#find').value = tasks[at(event)[0]];
    filter();
    $('#find').scrollIntoView({behavior: 'smooth', block: 'center'});
  };
  for (const button of document.querySelectorAll('#layers button'))
    button.onclick = () => {
      layer = Number(button.dataset.layer);
      for (const other of document.querySelectorAll('#layers button'))
        other.setAttribute('aria-pressed', other === button);
      paint();
    };
  paint();
}

function filter() {
  const wanted = $('#find').value.trim().toLowerCase();
  const kind = $('#kind').value, outcome = $('#outcome').value;
  let shown = 0;
  const rows = document.querySelectorAll('#episodes tbody tr[data-task]');
  for (const row of rows) {
    const fits = (!kind || row.dataset.kind === kind) &&
        (!outcome || row.dataset.outcome === outcome) &&
        (!wanted || `${row.dataset.task} ${row.title}`.toLowerCase().includes(
            wanted));
    row.hidden = !fits;
    shown += fits;
  }
  $('#count').textContent = shown === rows.length ? `${shown}` :
      `${shown} of ${rows.length}`;
}

// ---- An episode.
const FILL = {button: '#dbe7f5', tab: '#e8e2f3', menu: '#e8e2f3'};

function tone(advantage, largest) {
  if (!advantage) return '#d5d9e0';
  const share = Math.round(35 + 65 * Math.min(1, Math.abs(advantage) / largest));
  return `color-mix(in srgb, ${advantage > 0 ? '#4fbb8d' : '#e4705f'} ${
      share}%, #d5d9e0)`;
}

function mark(svg, action, width, height, other = false) {
  const colour = other ? '#8a4fd0' : '#d8281c';
  const dash = other ? {'stroke-dasharray': '5 4'} : {};
  if (action.box) {
    const [x, y, w, h] = action.box;
    svg.append(draw('rect', {x: x * width, y: y * height, width: w * width,
      height: h * height, rx: 3, fill: colour, 'fill-opacity': .12,
      stroke: colour, 'stroke-width': width / 180, ...dash}));
  }
  const points = [action.point, action.end].filter(x => x).map(
      ([x, y]) => [x * width, y * height]);
  if (points.length === 2)
    svg.append(draw('line', {x1: points[0][0], y1: points[0][1],
      x2: points[1][0], y2: points[1][1], stroke: colour,
      'stroke-width': width / 150, ...dash}));
  for (const [x, y] of points) {
    svg.append(draw('circle', {cx: x, cy: y, r: width / 40, fill: colour,
      'fill-opacity': .2, stroke: colour, 'stroke-width': width / 220,
      ...dash}));
    svg.append(draw('circle', {cx: x, cy: y, r: width / 180, fill: colour}));
  }
}

function drawElements(svg, elements, width, height) {
  svg.append(draw('rect', {width, height, fill: '#f7f7f8'}));
  elements.forEach(one => {
    const [x, y, w, h] = one.box;
    const inner = draw('svg', {x: x * width, y: y * height,
      width: w * width, height: h * height});
    const chosen = {checkbox: '☐☑', radio: '○●'}[one.kind];
    const sign = chosen ? `${chosen[Number(one.selected)]} ` : '';
    inner.append(draw('rect', {x: 1.5, y: 1.5, rx: 4,
      width: Math.max(1, w * width - 3), height: Math.max(1, h * height - 3),
      fill: FILL[one.kind] || (['label', 'text', 't', 'p'].includes(one.kind) ?
          'none' : '#fff'),
      stroke: one.focused ? '#2563d9' : '#c3c9d3',
      'stroke-width': one.focused ? 2 : 1}));
    const size = Math.max(7, Math.min(13, .5 * h * height));
    const label = draw('text', {x: 9, y: '50%', 'font-size': size,
      dy: '.35em', fill: '#1b1f27'}, `${sign}${one.text}${
        one.value || one.kind === 'field' ? ': ' : ''}`);
    const held = draw('tspan', {fill: '#2563d9', 'font-weight': 600},
        one.value);
    label.append(held);
    if (one.changed) label.append(draw('tspan', {fill: '#b06a00'}, '  edited'));
    inner.append(label);
    inner.append(draw('title', {}, `${one.kind} ${one.text}`));
    svg.append(inner);
  });
}

function player() {
  const {steps} = data;
  const largest = Math.max(1e-9, ...steps.map(x => Math.abs(x.advantage || 0)));
  const screen = $('#screen'), side = $('#side'), line = $('#timeline');
  // What lies below all elements of all steps is left out.
  const bottom = Math.max(.3, ...steps.flatMap(
      step => (step.elements || []).map(({box}) => box[1] + box[3])));
  let now = 0;
  const buttons = steps.map((step, i) => make('button', {type: 'button',
    style: `background:${tone(step.advantage, largest)}`,
    title: step.action.text, onclick: () => go(i)}, String(i + 1)));
  line.append(...buttons);

  function show(other = null) {
    const step = steps[now];
    const svg = draw('svg');
    let [width, height] = [600, 640];
    const cut = Math.min(1, bottom + .03);
    const finish = () => {
      svg.setAttribute('viewBox', `0 0 ${width} ${
          height * (step.elements ? cut : 1)}`);
      mark(svg, step.action, width, height);
      if (other) mark(svg, other, width, height, true);
    };
    if (step.elements) {
      drawElements(svg, step.elements, width, height);
      finish();
      screen.replaceChildren(svg);
    } else if (step.picture) {
      [width, height] = step.size;
      svg.append(draw('image', {href: step.picture, width, height}));
      finish();
      screen.replaceChildren(svg);
    } else {
      screen.replaceChildren(make('div', {class: 'blank'},
          'No picture of this step was kept.'));
    }
  }

  function fact(name, value) {
    return [make('dt', {}, name), make('dd', {}, value)];
  }

  function go(place) {
    now = Math.max(0, Math.min(steps.length - 1, place));
    const step = steps[now];
    show();
    buttons.forEach((button, i) => i === now ?
        button.setAttribute('aria-current', 'step') :
        button.removeAttribute('aria-current'));
    const parts = [
      make('small', {}, `step ${now + 1} of ${steps.length}`),
      make('p', {class: step.action.text.length > 60 ? 'did long' : 'did'},
          step.action.text),
      make('dl', {},
          ...(step.action.unread ? fact('read as', 'no action') :
              step.action.kind ? fact('read as', step.action.kind) : []),
          ...fact('advantage', step.advantage === null ? 'none' :
              `${step.advantage > 0 ? '+' : ''}${short(step.advantage)}`),
          ...fact('probability', `${(100 * Math.exp(step.log_prob)).toPrecision(
              3)} %`),
          ...fact('log-probability', short(step.log_prob)))];
    if (step.others) {
      parts.push(make('h3', {}, 'Alternatives at this step'));
      parts.push(make('ul', {class: 'others'}, ...step.others.map(
          (other, i) => make('li', {
            style: `border-left-color:${tone(other.advantage, largest)}`,
            onmouseenter: () => show(i ? other : null),
            onmouseleave: () => show(),
            title: other.match ? 'does the same' : 'does something else'},
          make('span', {}, i ? other.match ? '=' : '≠' : '▸'),
          make('span', {class: 'text'}, other.text),
          make('span', {class: 'n'}, `${other.advantage > 0 ? '+' : ''}${
              short(other.advantage)}`)))));
    }
    parts.push(make('h3', {}, 'Tokens, amber where unlikely'));
    parts.push(make('div', {class: 'tokens'}, ...step.tokens.map(
        ([token, logProb]) => make('span', {title: `log-prob ${short(logProb)}`,
          style: `background:color-mix(in srgb, #e0a23c ${Math.round(
              100 * (1 - Math.exp(logProb)))}%, #e6e9ee)`}, String(token)))));
    side.replaceChildren(...parts);
    history.replaceState(null, '', `#${now + 1}`);
  }

  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const target = {ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0,
      End: steps.length - 1}[event.key];
    if (target !== undefined) {
      event.preventDefault();
      go(target);
    }
  });
  go((Number(location.hash.slice(1)) || 1) - 1);
}

document.addEventListener('keydown', event => {
  const link = {n: 'next', p: 'prev'}[event.key];
  if (link && !event.ctrlKey && !event.metaKey && !event.altKey &&
      !['INPUT', 'SELECT'].includes(event.target.tagName))
    $(`a[rel=${link}]`)?.click();
});

if (document.body.classList.contains('overview')) {
  for (const root of document.querySelectorAll('.chart'))
    charts.push(new Chart(root, data.charts[root.dataset.chart]));
  $('#unzoom').onclick = () => setZoom(null);
  if ($('#map')) drawMap();
  for (const name of ['find', 'kind', 'outcome']) $(`#${name}`).oninput = filter;
  filter();
} else if (data.steps.length) {
  player();
}
