/** Bundles the built package as a front end would. */

import { build } from 'esbuild';
import { unpacked } from './paths.js';

/** Bundles a module that may import the package as `sdk`, minified, for browsers. */
export async function bundle(source: string, format: 'esm' | 'iife'): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents: source.replace("'sdk'", "'./dist/esm/index.js'"), resolveDir: unpacked },
    bundle: true,
    minify: true,
    write: false as const,
    platform: 'browser',
    target: 'es2022',
    format,
    globalName: 'bundled',
    logLevel: 'error',
  });
  return outputFiles[0]?.text ?? '';
}
