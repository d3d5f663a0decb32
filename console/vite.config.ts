import { readFileSync } from 'node:fs';
import { defineConfig, type Plugin } from 'vite';

/** Gathers the licences of what ends up in the script. */
const licences: Plugin = {
  name: 'licences',
  generateBundle(_, bundle) {
    const packages = new Set<string>();
    for (const chunk of Object.values(bundle)) {
      if (chunk.type !== 'chunk') continue;
      for (const id of chunk.moduleIds) {
        const found = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id);
        if (found?.[1]) packages.add(found[1]);
      }
    }
    const texts = [...packages].map((folder) => {
      const { name, version } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'));
      return `${name} ${version}\n\n${readFileSync(`${folder}/LICENSE`, 'utf8').trim()}\n`;
    });
    this.emitFile({ type: 'asset', fileName: 'licences.txt', source: `The console's script contains these packages.\n\n${texts.sort().join('\n---\n\n')}` });
  },
};

// The files have stable names: they are committed, and the server adds a version to the URLs.
export default defineConfig({
  plugins: [licences, { name: 'same-origin', transformIndexHtml: (html) => html.replaceAll(' crossorigin', '') }],
  base: '/console/',
  build: {
    target: 'es2022',
    outDir: '../impl/docsite/console',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: false,
    reportCompressedSize: false,
    rollupOptions: {
      output: { entryFileNames: 'app.js', assetFileNames: 'app[extname]', chunkFileNames: 'app-[name].js' },
    },
  },
  // "npm run dev" beside "make run", or beside the mock with SERVICE=http://127.0.0.1:4010.
  server: { proxy: { '/v1': process.env.SERVICE ?? 'http://127.0.0.1:8080', '/docs': process.env.SERVICE ?? 'http://127.0.0.1:8080' } },
});
