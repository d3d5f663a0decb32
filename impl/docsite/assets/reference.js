// The API reference: samples in the reader's language and for this installation, and requests that the reader tries.

// The credential is in this page's memory and nowhere else: not in storage, in no URL, and not in the document after a request.
let credential = '';
let attempts = new AbortController(); // aborted when their answers must no longer be shown

for (const sample of document.querySelectorAll('.samples pre')) {
  sample.textContent = sample.textContent.replaceAll('$AGENTROUTER_BASE_URL', location.origin);
}

function speak(language) {
  for (const samples of document.querySelectorAll('.samples')) {
    for (const button of samples.querySelectorAll('.languages-picker button')) {
      button.ariaPressed = String(button.textContent === language);
    }
    for (const pre of samples.querySelectorAll('pre')) {
      (pre.closest('.copyable') ?? pre).hidden = pre.dataset.language !== language;
    }
  }
}
for (const picker of document.querySelectorAll('.languages-picker')) {
  picker.hidden = false;
  picker.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (!button) return;
    const before = button.getBoundingClientRect().top; // other samples above change their height
    speak(button.textContent);
    scrollBy(0, button.getBoundingClientRect().top - before);
  });
}
speak('curl');

// Which operation is on the screen.
const links = new Map([...document.querySelectorAll('.contents a')].map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const link = links.get(target.getAttribute('aria-labelledby'));
    if (link && isIntersecting) {
      links.forEach((other) => other.removeAttribute('aria-current'));
      link.setAttribute('aria-current', 'true');
    }
  }
}, { rootMargin: '-20% 0px -75%' });
document.querySelectorAll('.operation').forEach((section) => seen.observe(section));

// Trying an operation: its form is made when the reader opens it.
for (const details of document.querySelectorAll('.try')) {
  details.hidden = false;
  details.addEventListener('toggle', () => {
    const template = details.querySelector('template');
    if (!template) return;
    template.replaceWith(template.content);
    const form = details.querySelector('form');
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      void attempt(form, details.querySelector('.outcome'));
    });
    form.querySelector('.forget')?.addEventListener('click', () => {
      forget();
      form.querySelector('.key input').focus();
    });
    hold(credential);
  });
}
addEventListener('pagehide', forget); // the browser may keep the page, to go back to it

/** Forgets the credential and all secrets on the page: answers, such as one with a new API key, and bodies that were not sent. */
function forget() {
  hold('');
  attempts.abort();
  attempts = new AbortController();
  for (const outcome of document.querySelectorAll('.outcome')) clear(outcome);
  for (const form of document.querySelectorAll('form[data-secret]')) resetBody(form);
}

/** Empties an outcome except for its report, and returns the report. */
function clear(outcome) {
  const report = outcome.querySelector('[role=status]');
  outcome.replaceChildren(report);
  report.textContent = '';
  return report;
}

function resetBody(form) {
  const body = form.querySelector('textarea');
  body.value = body.defaultValue;
}

/** Keeps a credential; '' means none. Forms ask for a credential only while there is none. */
function hold(given) {
  credential = given;
  for (const form of document.querySelectorAll('.try form')) {
    const key = form.querySelector('.key');
    if (!key) continue;
    key.querySelector('input').value = '';
    key.hidden = credential !== '';
    form.querySelector('.held').hidden = credential === '';
  }
}

/** Reads the request out of a form, or says which field is wrong. */
function read(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  const headers = new Headers();
  for (const input of form.querySelectorAll('[data-in]')) {
    const value = input.value.trim();
    if (value === '' && !input.required) continue;
    if (value === '' || (input.dataset.in === 'path' && /^\.{1,2}$/.test(value))) return { input, fault: `${input.name} is required.` };
    if (input.dataset.in === 'query') query.append(input.name, value);
    else if (input.dataset.in === 'path') path = path.replace(`{${input.name}}`, encodeURIComponent(value));
    else {
      try {
        headers.set(input.name, value);
      } catch {
        return { input, fault: `${input.name} can’t be sent: it has characters that no header can have.` };
      }
    }
  }
  const text = form.querySelector('textarea');
  if (text) {
    try {
      JSON.parse(text.value);
    } catch {
      return { input: text, fault: 'The body is not JSON.' };
    }
    headers.set('Content-Type', 'application/json');
  }
  return { url: location.origin + path + (query.size > 0 ? `?${query}` : ''), headers, body: text?.value };
}

async function attempt(form, outcome) {
  const report = clear(outcome);
  const button = form.querySelector('[type=submit]');
  const key = form.querySelector('.key input');
  const given = key?.value.trim() ?? '';
  const refuse = (input, fault) => {
    report.textContent = fault;
    input.focus();
  };
  // A header's value is visible ASCII; anything else is a mistake, which a browser's message must not quote.
  if (given && !/^[!-~]+$/.test(given)) return refuse(key, 'That is no API key: it has spaces or other characters that keys don’t have.');
  if (given) hold(given);
  if (key && !credential) return refuse(key, 'Paste an API key first.');
  const { input, fault, url, headers, body } = read(form);
  if (fault) return refuse(input, fault);
  if (key) headers.set('Authorization', `Bearer ${credential}`);
  if ('secret' in form.dataset) resetBody(form);
  button.disabled = true;
  report.textContent = 'Sending…';
  const sent = performance.now();
  const { signal } = attempts;
  try {
    const response = await fetch(url, { signal, method: form.dataset.method, headers, body, credentials: 'omit', redirect: 'error', cache: 'no-store' });
    const text = await response.text();
    report.textContent = `${response.status} ${response.statusText}, in ${Math.round(performance.now() - sent)} ms`;
    outcome.append(
      line(`${form.dataset.method} ${url.slice(location.origin.length)}`),
      ...problemOf(text),
      block('Body', pretty(text)),
      block('Headers', [...response.headers].map(([name, value]) => `${name}: ${value}`).join('\n')),
    );
  } catch {
    report.textContent = signal.aborted ? 'Stopped before the answer came. The service may have done it.'
      : 'The service does not answer. Check that it runs, then try again.';
  }
  button.disabled = false;
  button.focus();
}

function line(text) {
  const code = document.createElement('code');
  code.textContent = text;
  const made = document.createElement('p');
  made.append(code);
  return made;
}

function block(title, text) {
  const name = document.createElement('h4');
  name.textContent = title;
  const pre = document.createElement('pre');
  pre.textContent = text || '(empty)';
  pre.tabIndex = 0;
  return element('div', 'block', name, pre);
}

function element(name, className, ...content) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...content);
  return made;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** A link to the page of the problem that the service answered with. */
function problemOf(text) {
  try {
    const { type, title } = JSON.parse(text);
    if (!/^\/problems\/[a-z0-9-]+$/.test(type)) return [];
    const link = document.createElement('a');
    link.href = type;
    link.target = '_blank'; // this page keeps the API key
    link.textContent = `${title}: what to do`;
    return [element('p', '', link)];
  } catch {
    return [];
  }
}
