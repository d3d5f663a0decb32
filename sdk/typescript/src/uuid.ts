interface Crypto {
  crypto?: { getRandomValues?: (bytes: Uint8Array) => Uint8Array };
}

/**
 * A random UUID (version 4). It must be unique but may be guessed, so Math.random will do if the platform has no global crypto,
 * like Node 18. Pages that came over plain HTTP have no `crypto.randomUUID`.
 */
export function freshKey(): string {
  const bytes = Uint8Array.from({ length: 16 }, () => Math.random() * 256);
  (globalThis as Crypto).crypto?.getRandomValues?.(bytes);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  const variant = ((bytes[8] ?? 0) % 4) + 8;
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `4${hex.slice(13, 16)}`,
    variant.toString(16) + hex.slice(17, 20),
    hex.slice(20),
  ].join('-');
}
