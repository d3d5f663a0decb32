// Signing in at the service's OpenID Connect issuer: the authorization code flow with PKCE (RFC 7636). While the issuer's page is open,
// this tab's session storage holds the state and the verifier; neither is of use without the code. Tokens are in memory alone.
import { api, unwrap, type Schemas } from './client.ts';

export type Issuer = Schemas['OIDCClient'];

/** What the issuer's page leads back to. */
export interface Answer { issuer: Issuer; state: string; verifier: string; nonce: string; path: string; params: URLSearchParams }

/** Why nobody was signed in, in words for people. */
export class SignInFailed extends Error {}

const storage = 'sign-in';
const redirect = `${location.origin}/console`;

/** The issuer at which people sign in; undefined if they can't. */
export const readIssuer = async (): Promise<Issuer | undefined> => (await unwrap(api.GET('/v1/sign-in'))).oidc;

/** Leaves for the issuer's page. */
export async function leaveForIssuer(issuer: Issuer) {
  const { authorization_endpoint } = await discover(issuer);
  const kept = { issuer, state: random(), verifier: random(), nonce: random(), path: location.pathname.replace(/^\/console/, '') + location.search };
  sessionStorage.setItem(storage, JSON.stringify(kept));
  const page = new URL(authorization_endpoint);
  for (const [name, value] of Object.entries({
    response_type: 'code', client_id: issuer.client_id, redirect_uri: redirect, state: kept.state, nonce: kept.nonce,
    // A refresh token would outlive this tab, so none is asked for.
    scope: ['openid', ...issuer.scopes.filter((s) => s !== 'openid' && s !== 'offline_access')].join(' '),
    code_challenge: encode(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(kept.verifier)))), code_challenge_method: 'S256',
  })) page.searchParams.set(name, value);
  location.assign(page);
}

/** Takes the issuer's answer out of the page's URL, which shows the page where the reader was. Undefined if this tab awaits none. */
export function takeAnswer(): Answer | undefined {
  const params = new URLSearchParams(location.search);
  if (location.origin + location.pathname !== redirect || !params.has('state') || !(params.has('code') || params.has('error'))) return undefined;
  const kept = JSON.parse(sessionStorage.getItem(storage) ?? 'null') as Omit<Answer, 'params'> | null;
  sessionStorage.removeItem(storage);
  const isOurs = kept?.state === params.get('state');
  history.replaceState(null, '', `/console${isOurs ? kept.path : ''}`);
  return isOurs ? { ...kept, params } : undefined;
}

/** Gets the session token for an answer. */
export async function exchange({ issuer, verifier, nonce, params }: Answer): Promise<string> {
  const by = params.get('iss');
  if (by && by !== issuer.issuer) throw new SignInFailed('The answer is from another issuer.'); // RFC 9207
  const code = params.get('code');
  if (!code) throw new SignInFailed(params.get('error') === 'access_denied' ? 'The sign-in was refused.' : `The issuer refuses: ${params.get('error') ?? 'it sent no code'}.`);
  const { token_endpoint } = await discover(issuer);
  const tokens = await read<Record<string, unknown>>(token_endpoint, new URLSearchParams({
    grant_type: 'authorization_code', code, redirect_uri: redirect, client_id: issuer.client_id, code_verifier: verifier,
  }));
  if (typeof tokens.id_token === 'string' && claimsOf(tokens.id_token).nonce !== nonce) throw new SignInFailed('The issuer’s answer is to another sign-in.');
  const token = tokens[issuer.session_token];
  if (typeof token !== 'string') throw new SignInFailed(`The issuer sent no ${issuer.session_token}.`);
  return token;
}

interface Discovered { issuer: string; authorization_endpoint: string; token_endpoint: string }

async function discover({ issuer }: Issuer): Promise<Discovered> {
  const found = await read<Discovered>(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`);
  const isWeb = (url: string) => /^https?:$/.test(URL.parse(url)?.protocol ?? '');
  if (found.issuer !== issuer || !isWeb(found.authorization_endpoint) || !isWeb(found.token_endpoint)) throw new SignInFailed('The issuer does not answer as one.');
  return found;
}

async function read<T>(url: string, body?: URLSearchParams): Promise<T> {
  let response;
  try {
    response = await fetch(url, { method: body ? 'POST' : 'GET', body, credentials: 'omit', redirect: 'error', cache: 'no-store' });
  } catch {
    throw new SignInFailed('The issuer does not answer this page. API keys still work.');
  }
  if (!response.ok) throw new SignInFailed(`The issuer answers with status ${response.status}.`);
  return await response.json() as T;
}

function claimsOf(token: string): { nonce?: unknown } {
  try {
    return JSON.parse(atob((token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/'))) as { nonce?: unknown };
  } catch {
    return {};
  }
}

const random = () => encode(crypto.getRandomValues(new Uint8Array(32)));
const encode = (bytes: Uint8Array) => btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
