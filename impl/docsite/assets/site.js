// Shows the address by which the reader reached the service, and adds buttons that copy code.
'use strict';

// Behind some proxies the server can only guess its address. The browser knows it.
const said = document.body.dataset.base;
if (said !== location.origin) {
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

// Make code that is wider than its frame scrollable by keyboard.
for (const code of document.querySelectorAll('pre')) {
  if (code.scrollWidth > code.clientWidth || code.closest('details')) {
    code.tabIndex = 0;
  }
}
