#!/usr/bin/env node
// The npm facilitator, @x402/core with @x402/evm's exact scheme, behind node:http: what the keeper's
// /verify is measured beside. It answers as its own documentation sets it up, without any cache.
//
//   RPC=http://127.0.0.1:8545 node tests/bench/facilitator.mjs
import { createServer } from "node:http";
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { createWalletClient, http, publicActions } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";

const account = privateKeyToAccount(generatePrivateKey());
const transport = http(process.env.RPC);
const client = createWalletClient({ account, chain: baseSepolia, transport }).extend(publicActions);
const signer = toFacilitatorEvmSigner({ address: account.address, ...client });
const facilitator = new x402Facilitator().register("eip155:84532", new ExactEvmScheme(signer));

const server = createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  let answer;
  try {
    const { paymentPayload, paymentRequirements } = JSON.parse(body);
    answer = await facilitator.verify(paymentPayload, paymentRequirements);
  } catch (error) {
    answer = { isValid: false, invalidReason: String(error) };
  }
  const text = JSON.stringify(answer);
  response.setHeader("content-type", "application/json");
  response.setHeader("content-length", Buffer.byteLength(text));
  response.end(text);
});
server.listen(0, "127.0.0.1", () => console.log(`Listening on ${server.address().port}`));
