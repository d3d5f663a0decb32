// What can be said of a credential before it is sent anywhere.

const base62 = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';

function crc32(text: string): number {
  let crc = 0xffffffff;
  for (let i = 0; i < text.length; i++) {
    crc ^= text.charCodeAt(i);
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** The checksum that ends an API key. */
export function checksum(body: string): string {
  let rest = crc32(body);
  let out = '';
  for (let i = 0; i < 6; i++) {
    out = base62.charAt(rest % 62) + out;
    rest = Math.floor(rest / 62);
  }
  return out;
}

/** Why this can't be an API key or session token; empty if it may be one. */
export function refuseCredential(text: string): string {
  if (text === '') return 'Enter an API key or a session token.';
  if (!/^[!-~]+$/.test(text)) return 'It has spaces or characters that no key has. Copy it again.';
  if (text.startsWith('ak_')) {
    const at = text.lastIndexOf('_');
    if (text.length !== 3 + 26 + 1 + 43 + 1 + 6 || checksum(text.slice(0, at)) !== text.slice(at + 1)) {
      return 'This API key is cut off or mistyped: its checksum does not match. Copy it whole.';
    }
    return '';
  }
  if (text.startsWith('dp_')) return 'This is the credential of a data plane. Sign in with an API key of your own.';
  if (/^eyJ[\w-]+\.[\w-]+\.[\w-]+$/.test(text)) return '';
  return 'This is not an AgentRouter API key: those begin with ak_. A provider’s key (sk-…) is added after you have signed in. Nothing was sent.';
}
