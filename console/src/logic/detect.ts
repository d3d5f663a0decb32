// Whose key a secret is, by how it begins.
import type { Provider } from '../api/client.ts';

/** The providers with the longest known prefix that a secret has. */
export function ownersOf(secret: string, providers: readonly Provider[]): Provider[] {
  let longest = 0;
  let found: Provider[] = [];
  for (const provider of providers) {
    const match = Math.max(0, ...provider.prefixes.filter((p) => secret.startsWith(p)).map((p) => p.length));
    if (match > longest) {
      longest = match;
      found = [provider];
    } else if (match > 0 && match === longest) {
      found.push(provider);
    }
  }
  return found;
}

/** The provider that a secret surely belongs to. */
export function ownerOf(secret: string, providers: readonly Provider[]): Provider | undefined {
  const owners = ownersOf(secret, providers);
  return owners.length === 1 ? owners[0] : undefined;
}

/** Whether a name looks like a secret that was put into the wrong field. */
export function looksSecret(name: string, providers: readonly Provider[]): boolean {
  if (name.length >= 12 && ownersOf(name, providers).length > 0) return true;
  return name.length >= 20 && /^[\w-]+$/.test(name) && /\d/.test(name) && /[a-z]/i.test(name) && !/[-_ ]/.test(name.slice(3));
}

/** What is wrong with a secret that was pasted, before it is sent; empty if nothing is known to be. */
export function refuseSecret(secret: string): string {
  if (secret.trim() === '') return 'Paste the provider’s key.';
  if (/^ak_/.test(secret.trim())) return 'This is an AgentRouter API key. Paste the key that the provider gave you.';
  if (/[.…*•]{3,}/.test(secret)) return 'This key is masked. Providers show a key whole only once: make another one there.';
  return '';
}

/** Whether a field of a credential document is a secret, so that it is typed unseen. */
export const isSecretField = (field: string) => /key$|secret|token|password/.test(field) && !/_id$/.test(field);

/** The characters of a secret that the service will show of it. */
export function endingOf(secret: string): string {
  return secret.slice(secret.length - Math.min(4, Math.floor(secret.length / 4)));
}
