// A stock x402 client buys calls: `node pay.mjs <client> <url> <calls> <request-id prefix>`.
//
// client: "x402-fetch" (x402 v1) or "@x402/fetch" (x402 v2), both as they come from npm.
// The payer's key is in PAYER_KEY. Prints one line of JSON per call: id, status before payment,
// status, receipt, answer.

import { createWalletClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

const [client, url, calls, prefix] = process.argv.slice(2);
const account = privateKeyToAccount(process.env.PAYER_KEY);

// Remembers what the unpaid call was answered: the client hides it.
let unpaid;
const counted = async (input, init) => {
  const response = await fetch(input, init);
  unpaid ??= response.status;
  return response;
};

async function paying() {
  if (client === "x402-fetch") {
    const { wrapFetchWithPayment } = await import("x402-fetch");
    const wallet = createWalletClient({ account, chain: baseSepolia, transport: http() });
    // Its own limit is $0.10 a call.
    return wrapFetchWithPayment(counted, wallet, 1_000_000n);
  }
  if (client === "@x402/fetch") {
    const { wrapFetchWithPayment, x402Client } = await import("@x402/fetch");
    const { ExactEvmScheme } = await import("@x402/evm/exact/client");
    const payer = new x402Client().register("eip155:84532", new ExactEvmScheme(account));
    return wrapFetchWithPayment(counted, payer);
  }
  throw new Error(`unknown client ${client}`);
}

const pay = await paying();
const header = client === "x402-fetch" ? "x-payment-response" : "payment-response";

for (let n = 0; n < Number(calls); n++) {
  unpaid = undefined;
  const id = `${prefix}-${n}`;
  const call = { jecp: "1.0", id, capability: "demo/echo", action: "echo", input: { n } };
  const response = await pay(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(call),
  });
  const receipt = response.headers.get(header);
  console.log(
    JSON.stringify({
      id,
      unpaid,
      status: response.status,
      receipt: receipt && JSON.parse(Buffer.from(receipt, "base64").toString("utf8")),
      answer: await response.json(),
    }),
  );
}
