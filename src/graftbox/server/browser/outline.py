"""What there is to see of a page that is too large to be looked at as a whole: an outline of its beginning.

Chromium would give an accessibility tree and a snapshot of the whole page, of hundreds of megabytes. Here a
script walks over the elements that have an id, and what it finds takes the form of both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LONGEST = 10_000
"""Characters of one piece of text."""

OUTLINE = """([attribute, longest]) => {
  const roles = {
    button: 'button', select: 'combobox', option: 'option', textarea: 'textbox', img: 'image', ul: 'list',
    ol: 'list', li: 'listitem', table: 'table', tr: 'row', td: 'cell', th: 'columnheader', p: 'paragraph',
    iframe: 'Iframe', frame: 'Iframe', nav: 'navigation', main: 'main', form: 'form', label: 'LabelText',
    dialog: 'dialog', article: 'article', summary: 'DisclosureTriangle', h1: 'heading', h2: 'heading',
    h3: 'heading', h4: 'heading', h5: 'heading', h6: 'heading', video: 'Video', audio: 'Audio',
  };
  const inputs = {
    checkbox: 'checkbox', radio: 'radio', submit: 'button', button: 'button', reset: 'button',
    image: 'button', file: 'button', range: 'slider', number: 'spinbutton', search: 'searchbox',
  };
  const named = new Set([
    'link', 'button', 'heading', 'option', 'cell', 'columnheader', 'DisclosureTriangle',
  ]);
  const silent = new Set(['head', 'script', 'style', 'noscript', 'template']);
  const tidy = (text) => (text ?? '').slice(0, longest).replace(/\\s+/g, ' ').trim().slice(0, 200);
  // Asking each element for its labels would be a search through the page each time.
  const labels = new Map();
  for (const each of document.querySelectorAll('label[' + attribute + ']')) {
    if (each.control && !labels.has(each.control)) labels.set(each.control, each.textContent);
  }
  let active = document.activeElement;
  while (active && active.shadowRoot) active = active.shadowRoot.activeElement;

  const describe = (each, tag, id, box) => {
    const own = (name) => each.getAttribute(name);
    let role = own('role') ?? roles[tag] ?? '', value = null;
    const found = {t: tag, i: id, b: [box.left, box.top, box.width, box.height]};
    if (tag === 'a' && each.href) [role, found.h, found.u] = ['link', own('href'), each.href];
    if (tag === 'a' && own('title')) found.l = own('title');
    if (tag === 'ol' && own('start')) found.s = own('start');
    if (tag === 'input') {
      role = own('role') ?? inputs[each.type] ?? 'textbox';
      if (role === 'checkbox' || role === 'radio') found.c = String(each.checked);
      else if (each.type !== 'password') value = each.value;
    } else if (tag === 'textarea') {
      value = each.value;
    } else if (tag === 'select') {
      if (each.multiple) role = own('role') ?? 'listbox';
      else value = each.selectedOptions[0]?.textContent;
    }
    let name = own('aria-label') || own('alt') || tidy(labels.get(each));
    if (!name && named.has(role) && each.childElementCount < 9) name = tidy(each.textContent);
    name = tidy(name || own('title') || own('placeholder'));
    if (each === active && tag !== 'body') found.f = 1;
    if (each.disabled) found.d = 1;
    if (each.required) found.q = 1;
    if (own('aria-expanded')) found.e = own('aria-expanded');
    if (value) found.v = value.slice(0, longest);
    return Object.assign(found, {r: role, n: name});
  };

  const found = [];
  const stack = [document.documentElement];
  while (stack.length) {
    const each = stack.pop();
    if (each === 0) {
      found.push(0);
    } else if (each?.nodeType === 3) {
      if (each.data.trim()) found.push(each.data.slice(0, longest));
    } else if (each?.nodeType === 1) {
      const tag = each.tagName.toLowerCase(), id = each.getAttribute(attribute);
      if (id === null) break;
      const box = each.getBoundingClientRect();
      if (silent.has(tag)) continue;
      if (!box.width && !box.height && getComputedStyle(each).display === 'none') continue;
      found.push(describe(each, tag, id, box));
      stack.push(0);
      for (let child = each.lastChild; child; child = child.previousSibling) stack.push(child);
      for (let child = each.shadowRoot?.lastChild; child; child = child.previousSibling) stack.push(child);
    }
  }
  return JSON.stringify({title: document.title, found});
}"""
"""Arguments: the attribute of the ids, `LONGEST`. Returns, as JSON, the page's ``title`` and what is
``found`` in order: texts, elements as objects, and 0 for an element's end, unless it was cut off.
"""

_CLICKED = frozenset(("link", "button", "textbox", "checkbox", "radio"))

Marks = dict[str, tuple[float, bool]]


@dataclass
class Outline:
    """Of the frames ``inside`` by the id of what they are in, "" being the page itself: ``nodes`` as the
    protocol's accessibility tree has them, ``properties`` by id, ``content`` as `text.as_text` takes it.
    """

    inside: dict[str, str]
    marks: Marks
    nodes: list[dict[str, Any]] = field(default_factory=list)
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)

    def content(self, name: str = "", left: float = 0, top: float = 0) -> Iterator[tuple[str, Any]]:
        """Reads them, and fills the other two, while it goes on. ``left`` and ``top``: where the frame is."""
        read = json.loads(self.inside[name])
        root = self._node("RootWebArea", read["title"], None)
        # Of each open element its tag, and the node that its children belong to.
        open_ones: list[tuple[str, dict[str, Any]]] = []
        for each in read["found"]:
            above = open_ones[-1][1] if open_ones else root
            if isinstance(each, str):
                self._node("StaticText", each.strip(), above)
                yield "text", each
            elif each == 0:
                yield "end", open_ones.pop()[0]
            else:
                x, y, width, height = each["b"]
                box = [x + left, y + top, width, height] if width or height else None
                yield (
                    "start",
                    (each["t"], {"href": each.get("h"), "title": each.get("l"), "start": each.get("s")}),
                )
                open_ones.append((each["t"], self._element(each, box, above)))
                if each["i"] in self.inside and each["i"] != name:
                    first = len(self.nodes)
                    yield from self.content(each["i"], x + left, y + top)
                    open_ones[-1][1]["childIds"].append(self.nodes[first]["nodeId"])
        for tag, _ in reversed(open_ones):
            yield "end", tag

    def _node(self, role: str, name: str, above: dict[str, Any] | None) -> dict[str, Any]:
        node: dict[str, Any] = {
            "nodeId": str(len(self.nodes) + 1),
            "ignored": False,
            "role": {"type": "role", "value": role},
            "name": {"type": "computedString", "value": name},
            "properties": [],
            "childIds": [],
        }
        if above is not None:
            node["parentId"] = above["nodeId"]
            above["childIds"].append(node["nodeId"])
        self.nodes.append(node)
        return node

    def _element(
        self, each: dict[str, Any], box: list[float] | None, above: dict[str, Any]
    ) -> dict[str, Any]:
        """Its node; the one above for an element that says nothing."""
        visible, marked = self.marks.get(each["i"], (0.0, False))
        role = each["r"]
        clickable = "d" not in each and (role in _CLICKED or (marked and not role))
        self.properties[each["i"]] = {
            "visibility": visible,
            "bbox": box,
            "clickable": clickable,
            "set_of_marks": marked,
        }
        if not (role or each["n"] or marked or "f" in each):
            return above
        node = self._node(role or "generic", each["n"], above)
        node["browsergym_id"] = each["i"]
        if "v" in each:
            node["value"] = {"type": "string", "value": each["v"]}
        given = {
            "focused": each.get("f") and True,
            "disabled": each.get("d") and True,
            "required": each.get("q") and True,
            "checked": each.get("c"),
            "expanded": each.get("e"),
            "url": each.get("u"),
        }
        node["properties"] = [
            {"name": name, "value": {"type": "token", "value": value}}
            for name, value in given.items()
            if value is not None
        ]
        return node
