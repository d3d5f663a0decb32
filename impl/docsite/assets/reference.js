// Shows the API reference with Scalar and this installation's document. It makes no other requests.
'use strict';

(async () => {
  const place = document.getElementById('reference');
  const state = document.getElementById('reference-state');
  try {
    const reply = await fetch(place.dataset.document);
    if (!reply.ok) {
      throw new Error(`status ${reply.status}`);
    }
    // The samples use the address by which the reader reached this installation.
    const text = await reply.text();
    const content = JSON.parse(text.replaceAll('$AGENTROUTER_BASE_URL', location.origin));
    content.servers = [{ url: location.origin, description: 'This installation.' }];
    for (const operation of Object.values(content.paths).flatMap((item) => Object.values(item))) {
      for (const sample of operation['x-codeSamples'] ?? []) {
        sample.source = sample.source.trimEnd(); // Scalar would show an empty line
      }
    }
    place.replaceChildren(); // Scalar would take the placeholder for its own content
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
      hideModels: true, // a search finds operations, each of which shows its models
    });
  } catch {
    place.replaceChildren(state);
    state.textContent = 'The reference could not be shown. Load the page again, or read /openapi.yaml.';
  }
})();
