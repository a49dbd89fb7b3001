// A resource server as others build them: node:http and npm's @x402/core, with the keeper as its
// facilitator. `node shop.mjs <facilitator> <pay to>`; its token is in SHOP_TOKEN.
//
// Sells POST /thing for $0.20 and answers with what it was sent. Prints "Listening on <port>".

import { createServer } from "node:http";
import { HTTPFacilitatorClient, x402HTTPResourceServer, x402ResourceServer } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";

const [url, payTo] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env.SHOP_TOKEN}` };
const network = "eip155:84532";

const facilitator = new HTTPFacilitatorClient({
  url,
  createAuthHeaders: async () => ({ verify: headers, settle: headers, supported: headers }),
});
const resources = new x402ResourceServer(facilitator).register(network, new ExactEvmScheme());
const shop = new x402HTTPResourceServer(resources, {
  "POST /thing": {
    accepts: { scheme: "exact", network, payTo, price: "$0.20" },
    description: "A thing",
    mimeType: "application/json",
  },
});
await shop.initialize();

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString("utf8");
}

const answer = (response, status, headers, body) => {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(JSON.stringify(body ?? {}));
};

async function serve(request, response) {
  const sent = await body(request);
  const at = new URL(request.url, `http://${request.headers.host}`);
  const adapter = {
    getHeader: (name) => request.headers[name.toLowerCase()],
    getMethod: () => request.method,
    getPath: () => at.pathname,
    getUrl: () => at.href,
    getAcceptHeader: () => request.headers.accept ?? "",
    getUserAgent: () => request.headers["user-agent"] ?? "",
  };
  const context = { adapter, path: at.pathname, method: request.method };
  const asked = await shop.processHTTPRequest(context);
  if (asked.type === "payment-error") {
    return answer(response, asked.response.status, asked.response.headers, asked.response.body);
  }
  if (asked.type === "no-payment-required") return answer(response, 404, {}, {});
  // Settled before anything is handed out.
  const { paymentPayload, paymentRequirements, declaredExtensions } = asked;
  const settled = await shop.processSettlement(
    paymentPayload,
    paymentRequirements,
    declaredExtensions,
    { request: context },
  );
  if (!settled.success) return answer(response, 402, settled.headers, settled.response?.body);
  answer(response, 200, settled.headers, { result: { echo: JSON.parse(sent) } });
}

const server = createServer((request, response) => {
  serve(request, response).catch((error) => {
    console.error(error);
    answer(response, 500, {}, { error: String(error) });
  });
});
server.listen(0, "127.0.0.1", () => console.log(`Listening on ${server.address().port}`));
