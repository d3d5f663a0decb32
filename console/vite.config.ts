import { defineConfig } from 'vite';

// The files have stable names: they are committed, and the server adds a version to the URLs.
export default defineConfig({
  plugins: [{ name: 'same-origin', transformIndexHtml: (html) => html.replaceAll(' crossorigin', '') }],
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
