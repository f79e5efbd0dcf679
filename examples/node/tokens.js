// The token RPCs from Node, with a client that is made of protos/ alone.
//
//   npm ci
//   ADDRESS=localhost:8470 CA=../../rpz-auth-data/tls/ca.pem CLIENT_ID=… CLIENT_SECRET=… \
//     CODE=… CODE_VERIFIER=… REDIRECT_URI=… API_TOKEN=… node tokens.js
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const protos = fileURLToPath(new URL("../../protos", import.meta.url));
const definition = loader.loadSync("rpz/auth/v1/token_service.proto", {
  includeDirs: [protos],
  keepCase: true,
  defaults: true,
});
const { TokenService } = grpc.loadPackageDefinition(definition).rpz.auth.v1;

const env = process.env;
const client = { client_id: env.CLIENT_ID, client_secret: env.CLIENT_SECRET };
const tokens = new TokenService(env.ADDRESS, grpc.credentials.createSsl(readFileSync(env.CA)), {
  "grpc.enable_retries": 0, // a code must not be sent twice
});

function call(method, request) {
  const deadline = new Date(Date.now() + 20_000);
  return new Promise((resolve, reject) =>
    tokens[method](request, new grpc.Metadata(), { deadline }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    ),
  );
}

// The reason is the first field of the google.rpc.ErrorInfo in the details.
function reasonOf(error) {
  const [details] = error.metadata.get("grpc-status-details-bin");
  return /google\.rpc\.ErrorInfo[^A-Z]*([A-Z_]+)/.exec(details?.toString("latin1") ?? "")?.[1];
}

const signedIn = await call("ExchangeToken", {
  ...client,
  code: env.CODE,
  code_verifier: env.CODE_VERIFIER,
  redirect_uri: env.REDIRECT_URI,
});
const renewed = await call("Refresh", { ...client, refresh_token: signedIn.refresh_token });
const exchanged = await call("TokenExchange", {
  client_id: env.CLIENT_ID,
  subject_token: env.API_TOKEN,
  subject_token_type: "urn:rpz:token-type:api_token",
});
await call("RevokeToken", { ...client, token: renewed.refresh_token });
const refused = await call("Refresh", { ...client, refresh_token: renewed.refresh_token }).catch((error) => ({
  code: grpc.status[error.code],
  reason: reasonOf(error),
}));

console.log(JSON.stringify({ signedIn, renewed, exchanged, refused }));
tokens.close();
