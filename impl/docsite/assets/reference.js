// Shows the API reference: Scalar, with the document that this installation serves, and asks nobody else for anything.
'use strict';

(async () => {
  const place = document.getElementById('reference');
  const state = document.getElementById('reference-state');
  try {
    const reply = await fetch(place.dataset.document);
    if (!reply.ok) {
      throw new Error(`status ${reply.status}`);
    }
    // The samples are for this installation, by the address that the reader has for it.
    const text = await reply.text();
    const content = JSON.parse(text.replaceAll('$AGENTROUTER_BASE_URL', location.origin));
    content.servers = [{ url: location.origin, description: 'This installation.' }];
    for (const operation of Object.values(content.paths).flatMap((item) => Object.values(item))) {
      for (const sample of operation['x-codeSamples'] ?? []) {
        sample.source = sample.source.trimEnd(); // or it shows an empty line
      }
    }
    place.replaceChildren(); // what stands there would be taken for the library's own
    Scalar.createApiReference(place, {
      content,
      telemetry: false,
      withDefaultFonts: false,
      persistAuth: false,
      agent: { disabled: true },
      mcp: { disabled: true },
      showDeveloperTools: 'never',
      hideClientButton: true,
      hideTestRequestButton: true,
      hideDarkModeToggle: true,
      hiddenClients: true,
      documentDownloadType: 'none',
      defaultOpenAllTags: true,
    });
  } catch {
    place.replaceChildren(state);
    state.textContent = 'The reference could not be shown. Load the page again, or read /openapi.yaml.';
  }
})();
