// Shows the address by which the reader reached the service, adds buttons that copy code, and searches.

// Behind some proxies the server can only guess its address. The browser knows it.
const said = document.body.dataset.base;
if (said && said !== location.origin) {
  for (const element of document.querySelectorAll('[data-base]:not(body)')) {
    element.textContent = element.textContent.replaceAll(said, location.origin);
  }
}

// Without a secure connection there is no clipboard to write to.
if (navigator.clipboard) {
  for (const code of document.querySelectorAll('pre')) {
    const frame = document.createElement('div');
    frame.className = 'copyable';
    const button = document.createElement('button');
    button.className = 'copy';
    button.type = 'button';
    button.textContent = 'Copy';
    button.addEventListener('click', async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = 'Copied';
      } catch {
        button.textContent = 'Not copied';
      }
      setTimeout(() => { button.textContent = 'Copy'; }, 2000);
    });
    code.replaceWith(frame);
    frame.append(code, button);
  }
}

// Content that is wider than its frame can be scrolled by keyboard.
for (const frame of document.querySelectorAll('pre, .wide')) {
  if (frame.scrollWidth > frame.clientWidth || frame.closest('details')) {
    frame.tabIndex = 0;
    if (frame.matches('.wide')) {
      frame.role = 'group'; // not a landmark: guides have many tables
      frame.ariaLabel = 'Table';
    }
  }
}

// On a phone the list of contents would push the content off the screen.
const contents = document.querySelector('.contents details');
if (contents && matchMedia('(max-width: 62rem)').matches) {
  contents.open = false;
  contents.addEventListener('click', (event) => { contents.open &&= !event.target.closest('a'); });
}

// The search. Its index is loaded when the reader first uses it.
const search = document.querySelector('form.search');
const field = search.querySelector('input');
const list = search.querySelector('[role=listbox]');
const report = search.querySelector('[role=status]');
let index;
let chosen = -1;
search.hidden = false;

/** Returns how well an entry matches the words: 0 if one is missing, and most if its title begins with them. Operations come first. */
function score(entry, words) {
  const title = entry.title.toLowerCase();
  let sum = entry.kind === 'Operation' && words.every((word) => title.includes(word)) ? 100 : 0;
  for (const word of words) {
    if (title.startsWith(word)) sum += 5;
    else if (` ${title}`.includes(` ${word}`)) sum += 4;
    else if (title.includes(word)) sum += 3;
    else if (entry.hint?.toLowerCase().includes(word)) sum += 2;
    else if (entry.text?.toLowerCase().includes(word)) sum += 1;
    else return 0;
  }
  return sum;
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The text around the first word that the title does not have. */
function excerpt({ title, text = '' }, words) {
  const word = words.find((w) => !title.toLowerCase().includes(w));
  const at = word ? text.toLowerCase().indexOf(word) : -1;
  if (at < 0) return '';
  const start = text.lastIndexOf(' ', Math.max(0, at - 40)) + 1;
  return `${start > 0 ? '…' : ''}${text.slice(start, at + word.length + 60)}…`;
}

function choose(at) {
  chosen = at;
  [...list.children].forEach((option, i) => {
    option.ariaSelected = String(i === at);
    if (i === at) option.scrollIntoView({ block: 'nearest' });
  });
  if (at < 0) field.removeAttribute('aria-activedescendant');
  else field.setAttribute('aria-activedescendant', list.children[at].id);
}

function show(isShown) {
  list.hidden = !isShown;
  field.ariaExpanded = String(isShown);
}

async function find() {
  index ??= import(search.dataset.index).then((module) => module.default);
  const entries = await index;
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const best = words.length === 0 ? [] : entries.map((entry) => ({ entry, at: score(entry, words) })).filter(({ at }) => at > 0)
    .sort((a, b) => b.at - a.at).slice(0, 12); // the sort is stable: equal entries keep the order of the index
  list.replaceChildren(...best.map(({ entry }, i) => {
    const option = element('a', '', '');
    option.role = 'option';
    option.id = `found-${i}`;
    option.href = entry.path;
    option.tabIndex = -1;
    option.append(element('b', '', entry.title), ' ', element('span', 'kind', entry.kind), element('span', 'hint', entry.hint ?? ''), element('span', 'excerpt', excerpt(entry, words)));
    return option;
  }));
  choose(best.length > 0 ? 0 : -1);
  show(best.length > 0);
  report.textContent = words.length === 0 ? '' : best.length > 0 ? `${best.length} found` : 'Nothing found';
  report.classList.toggle('unseen', words.length === 0 || best.length > 0);
}

field.addEventListener('input', find);
field.addEventListener('focus', find);
search.addEventListener('focusout', (event) => { if (!search.contains(event.relatedTarget)) show(false); });
search.addEventListener('submit', (event) => {
  event.preventDefault();
  list.children[chosen]?.click();
});
list.addEventListener('mousedown', (event) => event.preventDefault()); // the field keeps the focus, so the list stays until the click
list.addEventListener('click', (event) => {
  if (!event.target.closest('a')) return;
  show(false);
  field.blur();
});
field.addEventListener('keydown', (event) => {
  const count = list.children.length;
  if (event.key === 'Escape') show(false);
  else if (count > 0 && event.key === 'ArrowDown') choose((chosen + 1) % count);
  else if (count > 0 && event.key === 'ArrowUp') choose((chosen - 1 + count) % count);
  else return;
  event.preventDefault();
});
document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea, select')) return;
  event.preventDefault();
  field.focus();
});
