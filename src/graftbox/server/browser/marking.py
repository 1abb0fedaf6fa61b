"""The JavaScript that gives a page's elements their ids, and takes the traces of it away again.

Ids are those of browsergym-core: counted in document order, shadow trees behind their hosts; frames have
letters, which begin the ids within them. An element keeps its id, in the attribute ``bid``, as long as the
page lives. For the moment of the observation the id also stands in two ARIA attributes, through which it
gets into the accessibility tree. Unlike the model's, this script changes no form values and no list numbers.
"""

from __future__ import annotations

ATTRIBUTE = "bid"
PREFIX = "browsergym_id_"
MOST = 20_000
"""Elements of a page that get an id: with more, it can't be looked at as a whole in the time of a step."""
LEAST = 500
"""Elements of a frame that get one all the same."""
HITS_MS = 4000
"""Milliseconds for finding out which elements are to be seen behind which others."""

# Elements in order, those of open shadow trees behind their hosts; ``enough`` of them.
_ELEMENTS = """
  const elements = [];
  const collect = (root) => {
    for (const each of root.querySelectorAll('*')) {
      if (elements.length >= enough) return;
      elements.push(each);
      if (each.shadowRoot) collect(each.shadowRoot);
    }
  };
  collect(document);
"""

MARK = (
    """async ([parent, attribute, prefix, patience, most, brief, hitsTime]) => {
  const enough = most + 1;"""
    + _ELEMENTS
    + """
  const cut = elements.length > most;
  const plain = cut || brief;
  elements.length = Math.min(elements.length, most);
  const first = !window.__graftbox_ids;
  const counters = window.__graftbox_ids ??= {elements: 0, frames: 0};
  const frameName = (number) => {
    let name = '';
    for (let rest = number + 1; rest > 0; rest = Math.floor((rest - 1) / 26)) {
      const letter = String.fromCharCode(97 + (rest - 1) % 26);
      name = (rest > 26 ? letter.toUpperCase() : letter) + name;
    }
    return name;
  };

  // Who is clicked at the middle of an element, through shadow trees.
  const atPoint = (x, y) => {
    let found = null, root = document;
    while (root) {
      const next = root.elementFromPoint(x, y);
      if (next === found) break;
      found = next;
      root = found && found.shadowRoot;
    }
    return found;
  };
  const clickable = new Set([
    'input', 'textarea', 'select', 'button', 'a', 'iframe', 'video', 'li', 'td', 'option',
  ]);
  const marked = new Set(), buttons = new Set();
  const isInButton = (each) => {
    for (let up = each; up; up = up.parentNode) if (buttons.has(up)) return true;
    return false;
  };
  const seen = new Map();
  const share = (box) => {
    const width = Math.min(box.right, innerWidth) - Math.max(box.left, 0);
    const height = Math.min(box.bottom, innerHeight) - Math.max(box.top, 0);
    return width > 0 && height > 0 ? Math.round(width * height / (box.width * box.height) * 100) / 100 : 0;
  };
  const end = performance.now() + hitsTime;
  let late = false;
  for (const each of elements) {
    const box = each.getBoundingClientRect();
    if (plain) seen.set(each, share(box));
    late ||= performance.now() > end;
    if (late) continue;
    const hit = atPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2);
    if (!hit || !(hit === each || each.contains(hit))) continue;
    if (!clickable.has(each.tagName.toLowerCase()) && each.onclick == null
        && getComputedStyle(each).cursor !== 'pointer') continue;
    if ((box.right - box.left) * (box.bottom - box.top) < 20) continue;
    if (isInButton(each)) continue;
    let above = each.parentElement;
    if (above && above.tagName.toLowerCase() === 'span' && above.children.length === 1
        && above.getAttribute('role') && marked.has(above)) continue;
    marked.add(each);
    if (each.matches('button, a, input[type="button"], div[role="button"]')) buttons.add(each);
    for (; above; above = above.parentElement) marked.delete(above);
  }

  let all;
  const visited = new Promise((resolve) => { all = resolve; });
  const observer = new IntersectionObserver((entries) => {
    for (const each of entries) seen.set(each.target, Math.round(each.intersectionRatio * 100) / 100);
    if (seen.size >= elements.length) all();
  });
  if (!plain) for (const each of elements) observer.observe(each);

  const used = new Set(), ids = new Map();
  for (const each of elements) {
    // An attribute of the page's own that happens to have this name is overwritten.
    let id = first ? null : each.getAttribute(attribute);
    if (id === null || used.has(id)) {
      const frame = ['iframe', 'frame'].includes(each.tagName.toLowerCase());
      id = parent + (frame ? frameName(counters.frames++) : counters.elements++);
      each.setAttribute(attribute, id);
    }
    used.add(id);
    ids.set(each, id);
    if (plain) continue;
    for (const name of ['aria-roledescription', 'aria-description']) {
      each.setAttribute(name, prefix + id + ' ' + (each.getAttribute(name) ?? ''));
    }
  }

  // Told when the marks are taken away: whether the page changed in the meantime.
  const changes = window.__graftbox_changes = new MutationObserver(() => { changes.seen = true; });
  for (const each of [document, ...elements.map((element) => element.shadowRoot)]) {
    if (each) changes.observe(each, {subtree: true, childList: true, characterData: true, attributes: true});
  }

  changes.plain = plain;

  if (!plain) await Promise.race([visited, new Promise((resolve) => setTimeout(resolve, patience))]);
  observer.disconnect();

  let active = document.activeElement;
  while (active && active.shadowRoot) active = active.shadowRoot.activeElement;
  return {
    cut, late,
    focused: active ? active.getAttribute(attribute) : null,
    anything: Boolean(active),
    ids: elements.map((each) => ids.get(each)),
    visible: elements.map((each) => seen.get(each) ?? 0).join(' '),
    marked: elements.map((each) => Number(marked.has(each))).join(''),
  };
}"""
)
"""Arguments: what the frame's ids begin with, `ATTRIBUTE`, `PREFIX`, milliseconds to wait for visibility, how
many elements may get an id, whether nothing else shall be done with them, `HITS_MS`. That is so, too, where
elements were ``cut`` off, as there are more. Returns that, whether it was too ``late`` to find out for all
whether they are to be marked, the id of the ``focused`` element, whether there is ``anything`` in focus, and
of all elements: the ``ids``, how much is ``visible``, from 0 to 1, with blanks between, whether they are
``marked``, as digits. Long lists are slow to pass on, long strings are not."""

UNMARK = (
    """(prefix) => {
  const changes = window.__graftbox_changes;
  const changed = !changes || changes.takeRecords().length > 0 || Boolean(changes.seen);
  changes?.disconnect();
  if (changes?.plain) return changed;
  const enough = Infinity;
"""
    + _ELEMENTS
    + """
  for (const each of elements) {
    for (const name of ['aria-roledescription', 'aria-description']) {
      const value = each.getAttribute(name);
      if (value === null || !value.startsWith(prefix)) continue;
      const own = value.slice(value.indexOf(' ') + 1);
      if (own) each.setAttribute(name, own); else each.removeAttribute(name);
    }
  }
  return changed;
}"""
)
"""Argument: `PREFIX`. Returns whether anything else in the frame has changed since `MARK`."""

ACTIVATION = """{
  let last = -1000;
  const tell = () => {
    // One click is five events.
    if (performance.now() - last < 100) return;
    last = performance.now();
    try { window.graftbox_page_activated(); } catch {}
  };
  tell();
  for (const each of ['focus', 'focusin', 'load', 'pageshow', 'mousemove', 'mouseup', 'mousedown', 'wheel',
                      'keyup', 'keydown', 'input', 'touchstart', 'touchend']) {
    addEventListener(each, tell, {capture: true});
  }
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'visible') tell();
  }, {capture: true});
}"""
"""Tells the server which page was used last, as no protocol knows that."""
BINDING = "graftbox_page_activated"
