// The whole flow with openid-client, and what oauth4webapi makes of a mixed-up answer.
// Prints an authorization URL as its first line, reads where the browser was sent back to, prints what came of it.
import * as oauth from 'oauth4webapi'
import * as oidc from 'openid-client'
import { createInterface } from 'node:readline/promises'

const { ISSUER, CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, RESOURCE, PUSHED } = process.env
const browser = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

async function refused(call) {
  try {
    await call()
  } catch (error) {
    return error.error ?? error.code ?? error.name
  }
  return null
}

const authentication = CLIENT_SECRET ? oidc.ClientSecretBasic(CLIENT_SECRET) : oidc.None()
const config = await oidc.discovery(new URL(ISSUER), CLIENT_ID, undefined, authentication, { algorithm: 'oauth2' })
const verifier = oidc.randomPKCECodeVerifier()
const state = oidc.randomState()
const parameters = {
  redirect_uri: REDIRECT_URI,
  scope: 'orders.read',
  state,
  code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
  code_challenge_method: 'S256',
}
const url = PUSHED
  ? await oidc.buildAuthorizationUrlWithPAR(config, parameters)
  : oidc.buildAuthorizationUrl(config, parameters)
console.log(url.href)
const back = new URL((await browser.next()).value)

const story = { issuer: config.serverMetadata().issuer }
const checks = { pkceCodeVerifier: verifier, expectedState: state }
const first = await oidc.authorizationCodeGrant(config, back, checks)
story.first = { scope: first.scope, type: first.token_type, expires_in: first.expires_in }
const second = await oidc.refreshTokenGrant(config, first.refresh_token)
story.rotated = second.refresh_token !== first.refresh_token
if (CLIENT_SECRET) {
  const meaning = await oidc.tokenIntrospection(config, second.access_token)
  story.introspected = { active: meaning.active, sub: meaning.sub, aud: meaning.aud, client_id: meaning.client_id }
  const own = await oidc.clientCredentialsGrant(config, { scope: 'orders.read', resource: RESOURCE })
  story.own = { scope: own.scope, refresh_token: own.refresh_token ?? null }
}
await oidc.tokenRevocation(config, second.refresh_token)
if (CLIENT_SECRET) {
  story.revoked = await oidc.tokenIntrospection(config, second.access_token)
}
story.refreshRefused = await refused(() => oidc.refreshTokenGrant(config, second.refresh_token))
story.codeAgain = await refused(() => oidc.authorizationCodeGrant(config, back, checks))

const mixedUp = new URL(back)
mixedUp.searchParams.set('iss', 'https://evil.example')
story.mixedUp = await refused(() => oidc.authorizationCodeGrant(config, mixedUp, checks))
const server = await oauth.processDiscoveryResponse(
  new URL(ISSUER),
  await oauth.discoveryRequest(new URL(ISSUER), { algorithm: 'oauth2' }),
)
story.validated = [...oauth.validateAuthResponse(server, { client_id: CLIENT_ID }, back, state).keys()].sort()
story.mixedUpAgain = await refused(async () =>
  oauth.validateAuthResponse(server, { client_id: CLIENT_ID }, mixedUp, state),
)
console.log(JSON.stringify(story))
process.exit(0)
