"""Scripts that run in a MiniWoB++ page: start an episode, read the screen.

`START` takes the seed, `LOOK` the pixels to scroll by. Both return
`{done: true, reward}`, the raw reward, or `{done: false, instruction,
elements, verbs}`, where an element is `base.Element`'s fields and the `point`
to click at. Elements are what is on the screen, in document order: what can be
operated as one piece (a tab with all that is in it), what has text of its own,
and icons. A form field carries the text of its label; an element without text
its title, colour, id or classes.
"""

_OBSERVE = r"""
const INTERACTIVE = 'a, button, input, select, textarea, [onclick], ' +
  ['button', 'checkbox', 'link', 'menuitem', 'option', 'radio', 'tab'].map(
    role => `[role=${role}]`).join(', ');
const CHROME = ['query', 'reward-display', 'sync-task-cover', 'click-canvas'];
const WIDTH = 160, HEIGHT = 210;
const FIELD = 'textarea, input:not([type=checkbox]):not([type=radio])' +
  ':not([type=button]):not([type=submit]):not([type=reset])';

const isOn = element => element.checked === true ||
  ['selected', 'expanded', 'checked', 'pressed'].some(
    name => element.getAttribute('aria-' + name) === 'true') ||
  ['active', 'selected', 'clicked'].some(
    name => element.classList.contains(name));

const isInSelectedItem = element =>
  element.parentElement.matches('li') && isOn(element.parentElement);

const ownTexts = element => [...element.childNodes].filter(
  node => node instanceof Text && node.data.trim());

function nameOf(element, isAtomic) {
  const labels = [...(element.labels || [])].map(label => label.textContent);
  const texts = isAtomic ? [element.textContent] :
    ownTexts(element).map(node => node.data);
  const attributes = ['aria-label', 'placeholder', 'title', 'alt'].map(
    name => element.getAttribute(name));
  if (element.matches('input:not(' + FIELD + ')')) texts.push(element.value);
  const names = [labels.join(' '), texts.join(' '), ...attributes,
    element.getAttribute('fill'), element.id,
    element.getAttribute('class') || ''];
  return names.find(name => name && name.trim()) || '';
}

// A leaf without words is worth a look if it paints something: an icon.
function isIcon(element) {
  if (element.children.length) return false;
  const style = getComputedStyle(element);
  return element instanceof SVGElement || element.tagName === 'IMG' ||
    style.backgroundImage !== 'none' || style.content.startsWith('url') ||
    style.backgroundColor !== 'rgba(0, 0, 0, 0)';
}

// A point of the window where a click reaches the element itself.
function visiblePoint(element, isAtomic) {
  let shape = element;
  if (!isAtomic && element.children.length) {
    shape = document.createRange();
    shape.selectNodeContents(ownTexts(element)[0]);
  }
  const box = shape.getClientRects()[0];
  if (!box || !box.width || !box.height) return null;
  for (const [u, v] of [[.5, .5], [.2, .2], [.8, .2], [.2, .8], [.8, .8]]) {
    const x = box.left + u * box.width, y = box.top + v * box.height;
    if (x >= WIDTH || y >= HEIGHT) continue;
    const hit = document.elementFromPoint(x, y);
    if (hit === element || isAtomic && element.contains(hit)) return [x, y];
  }
  return null;
}

function describe(element, isAtomic, point) {
  const tag = element.tagName.toLowerCase();
  const box = element.getBoundingClientRect();
  const isEditable = element.matches(FIELD) && !element.readOnly &&
    !element.disabled;
  const changed = [element, ...element.querySelectorAll('*')].some(
    part => part.dataset.tampered === 'e' + WOB_EPISODE_ID);
  return {
    kind: tag === 'input' ? 'input_' + element.type :
      element.getAttribute('role') || tag,
    text: nameOf(element, isAtomic),
    value: isEditable ? element.value : '',
    box: [box.left / WIDTH, box.top / HEIGHT, box.width / WIDTH,
      box.height / HEIGHT],
    focused: document.activeElement === element,
    changed: changed,
    selected: isOn(element) || isAtomic && isInSelectedItem(element),
    editable: isEditable,
    interactive: isAtomic,
    point: point,
  };
}

function visit(element, found) {
  if (CHROME.includes(element.id)) return;
  const isAtomic = element.matches(INTERACTIVE);
  const isLabel = element instanceof HTMLLabelElement && element.control;
  if (!isLabel && (isAtomic || ownTexts(element).length || isIcon(element))) {
    const point = visiblePoint(element, isAtomic);
    if (point) found.push(describe(element, isAtomic, point));
  }
  if (!isAtomic) for (const child of element.children) visit(child, found);
}

function observe() {
  if (WOB_DONE_GLOBAL) return {done: true, reward: WOB_RAW_REWARD_GLOBAL};
  const query = core.getUtterance(), page = document.scrollingElement;
  const found = [], verbs = [];
  for (const child of document.body.children) visit(child, found);
  if (page.scrollTop > 0) verbs.push('scroll_up');
  if (page.scrollTop + page.clientHeight < page.scrollHeight - 1)
    verbs.push('scroll_down');
  return {done: false, instruction: query.utterance || query, elements: found,
    verbs: verbs};
}

// An icon has no size, so it is not on the screen, until its file is loaded.
const icons = () => Promise.all([...document.querySelectorAll('#wrap *')].map(
  element => /^url\("(.*)"\)/.exec(getComputedStyle(element).content)).filter(
  found => found).map(found => {
    const image = new Image();
    image.src = found[1];
    return image.decode().catch(() => null);
  }));

// Handlers that wait for a timer of 0 ms have run when this resolves.
const pause = () => new Promise(resolve => setTimeout(resolve, 0));
const settled = () => pause().then(pause).then(icons).then(pause);
"""

START = _OBSERVE + """
if (document.activeElement) document.activeElement.blur();
core.EPISODE_MAX_TIME = 2147483647;
core.endEpisode(0);
for (const touched of document.querySelectorAll('[data-tampered]'))
  delete touched.dataset.tampered;
core.setDataMode('train');
Math.seedrandom(arguments[0]);
core.startEpisodeReal();
return settled().then(observe);
"""

LOOK = _OBSERVE + """
if (arguments[0]) document.scrollingElement.scrollBy(0, arguments[0]);
return settled().then(observe);
"""
