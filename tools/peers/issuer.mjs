// Runs an OpenID provider on this machine until it is ended, and prints "issuer URL" once it listens. Its one client, "tare", is public and
// native, with PKCE, refresh tokens and the device flow. It asks for no password and shows no page of consent: the `login_hint` of a request
// is the account, "alice" by default, and "deny" refuses. The first argument is the life of an ID token in seconds; the second, the name of
// another host at which the token endpoint is, which must be this machine's.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const idTokenLife = Number(process.argv[2] ?? 3600);
const tokenHost = process.argv[3];
const signingKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });

const configuration = {
  jwks: { keys: [{ ...signingKey, alg: "RS256", use: "sig" }] },
  cookies: { keys: [randomUUID()] },
  clients: [
    {
      client_id: "tare",
      application_type: "native",
      token_endpoint_auth_method: "none",
      redirect_uris: ["http://127.0.0.1/callback", "http://127.0.0.1/console"], // on any port (RFC 8252, section 7.3)
      grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
    },
  ],
  features: {
    devInteractions: { enabled: false },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
  },
  pkce: { required: () => true },
  clientBasedCORS: () => true, // the console is a page at another origin
  rotateRefreshToken: true,
  ttl: { IdToken: idTokenLife },
  conformIdTokenClaims: false, // the ID token has the claims, though there is an access token to ask for them with
  claims: { openid: ["sub", "customer_id", "project_id"] },
  findAccount: (_, accountId) => ({
    accountId,
    claims: () => ({ sub: accountId, customer_id: "acme", project_id: "chat" }),
  }),
};

// signIn answers a request for an interaction with a login and consent to everything, or with a refusal.
async function signIn(provider, ctx) {
  const { params } = await provider.interactionDetails(ctx.req, ctx.res);
  const accountId = params.login_hint ?? "alice";
  if (accountId === "deny") return { error: "access_denied", error_description: "the user refused" };
  const grant = new provider.Grant({ accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return { login: { accountId }, consent: { grantId: await grant.save() } };
}

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const url = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(url, configuration);
  provider.use(async (ctx, next) => {
    if (ctx.path.startsWith("/interaction/")) {
      ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, await signIn(provider, ctx)));
      return;
    }
    await next();
    if (tokenHost && ctx.body?.token_endpoint) ctx.body.token_endpoint = ctx.body.token_endpoint.replace("127.0.0.1", tokenHost);
    if (ctx.body?.device_code) ctx.body.interval = 1; // seconds; without it, clients poll every 5
  });
  server.on("request", provider.callback());
  console.log(`issuer ${url}`);
});
