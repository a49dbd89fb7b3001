// A stock x402 client buys calls: `node pay.mjs <client> <url> <calls> <request-id prefix>`.
//
// client: "x402-fetch" or "x402-axios" (x402 v1), or "@x402/fetch" (x402 v2), all as they come from npm.
// The payer's key is in PAYER_KEY. Prints one line of JSON per call: id, status before payment,
// status, receipt, answer.

import { createWalletClient, http } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

const [client, url, calls, prefix] = process.argv.slice(2);
const account = privateKeyToAccount(process.env.PAYER_KEY);
const wallet = createWalletClient({ account, chain: baseSepolia, transport: http() });
// The limit of x402-fetch is $0.10 a call, unless it is told another.
const limit = 1_000_000n;

// Remembers what the unpaid call was answered: the clients hide it.
let unpaid;
const counted = async (input, init) => {
  const response = await fetch(input, init);
  unpaid ??= response.status;
  return response;
};

/** A way to post JSON that pays when it is asked to, and the header that brings the receipt. */
async function paying() {
  if (client === "x402-axios") {
    const { default: axios } = await import("axios");
    const { withPaymentInterceptor } = await import("x402-axios");
    const plain = axios.create();
    // Asked before the client's own interceptor.
    plain.interceptors.response.use(undefined, (error) => {
      unpaid ??= error.response?.status;
      return Promise.reject(error);
    });
    const payer = withPaymentInterceptor(plain, wallet);
    const post = async (url, body) => {
      const answer = await payer.post(url, body).catch((error) => {
        if (!error.response) throw error;
        return error.response;
      });
      const header = (name) => answer.headers[name] ?? null;
      return { status: answer.status, header, answer: answer.data };
    };
    return [post, "x-payment-response"];
  }
  const fetching = (pay) => async (url, body) => {
    const headers = { "content-type": "application/json" };
    const response = await pay(url, { method: "POST", headers, body: JSON.stringify(body) });
    const header = (name) => response.headers.get(name);
    return { status: response.status, header, answer: await response.json() };
  };
  if (client === "x402-fetch") {
    const { wrapFetchWithPayment } = await import("x402-fetch");
    return [fetching(wrapFetchWithPayment(counted, wallet, limit)), "x-payment-response"];
  }
  if (client === "@x402/fetch") {
    const { wrapFetchWithPayment, x402Client } = await import("@x402/fetch");
    const { ExactEvmScheme } = await import("@x402/evm/exact/client");
    const payer = new x402Client().register("eip155:84532", new ExactEvmScheme(account));
    return [fetching(wrapFetchWithPayment(counted, payer)), "payment-response"];
  }
  throw new Error(`unknown client ${client}`);
}

const [post, receiptHeader] = await paying();

for (let n = 0; n < Number(calls); n++) {
  unpaid = undefined;
  const id = `${prefix}-${n}`;
  const call = { jecp: "1.0", id, capability: "demo/echo", action: "echo", input: { n } };
  const { status, header, answer } = await post(url, call);
  const receipt = header(receiptHeader);
  const decoded = receipt && JSON.parse(Buffer.from(receipt, "base64").toString("utf8"));
  console.log(JSON.stringify({ id, unpaid, status, receipt: decoded, answer }));
}
