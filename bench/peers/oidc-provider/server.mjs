// oidc-provider as its documentation has it, in memory: refresh tokens that rotate, access tokens as ES256 JWTs.
// Reads what it shall be from standard input as JSON, and writes its port and refresh tokens as one line of JSON.
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import https from "node:https";
import { Provider } from "oidc-provider";

const { certificate, key, grants } = JSON.parse(readFileSync(0, "utf8"));
const resource = "https://orders.example";
const secret = randomBytes(48).toString("base64url");
const signing = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" });

const provider = new Provider("https://localhost", {
  clients: [
    {
      client_id: "peer",
      client_secret: secret,
      grant_types: ["authorization_code", "refresh_token", "client_credentials"],
      redirect_uris: ["https://shop.example/callback"],
      token_endpoint_auth_method: "client_secret_post",
      id_token_signed_response_alg: "ES256",
    },
  ],
  jwks: { keys: [{ ...signing, use: "sig", alg: "ES256", kid: "1" }] },
  scopes: ["offline_access", "orders.read"],
  rotateRefreshToken: true,
  findAccount: (_context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: "orders.read",
        audience: resource,
        accessTokenFormat: "jwt",
        accessTokenTTL: 7200,
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});

const client = await provider.Client.find("peer");
const tokens = [];
for (let number = 0; number < grants; number += 1) {
  const accountId = `user:${number}`;
  const grant = new provider.Grant({ accountId, clientId: "peer" });
  grant.addOIDCScope("offline_access");
  grant.addResourceScope(resource, "orders.read");
  const refresh = new provider.RefreshToken({
    accountId,
    client,
    grantId: await grant.save(),
    gty: "authorization_code",
    resource,
    rotations: 0,
    scope: "offline_access orders.read",
  });
  tokens.push(await refresh.save());
}

const server = https.createServer({ cert: certificate, key }, provider.callback());
server.listen(0, "127.0.0.1", () => {
  process.stdout.write(`${JSON.stringify({ port: server.address().port, secret, tokens })}\n`);
});
process.on("SIGTERM", () => process.exit(0));
