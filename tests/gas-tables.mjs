#!/usr/bin/env node
// Holds the gas tables of docs/contracts.md and docs/contracts-v1.md against snapshots/*.json, which
// `forge test` holds against the contracts. Prints every row that should be there and is not.
//
//   node tests/gas-tables.mjs
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const missing = [];

function read(path) {
  return readFileSync(join(ROOT, path), "utf8");
}

/// The figures of one contract; `expect` looks for text built from them, line breaks aside.
function page(doc, name) {
  const figures = JSON.parse(read(`snapshots/${name}.json`));
  const text = read(doc).replaceAll(/\s+/g, " ");
  const shown = new Set();
  const plain = (key) => {
    if (!(key in figures)) throw new Error(`snapshots/${name}.json has no ${key}`);
    shown.add(key);
    return Number(figures[key]);
  };
  const format = (number) => Math.floor(number).toLocaleString("en-US");
  return {
    gas: (key) => format(plain(key)),
    each: (key, count) => format(plain(key) / count),
    expect: (wanted) => text.includes(wanted) || missing.push(`${doc}: ${wanted}`),
    /// A figure that no row shows would be free to drift.
    finish: (...hidden) => {
      for (const key of Object.keys(figures)) {
        if (!shown.has(key) && !hidden.some((end) => key.endsWith(end))) {
          missing.push(`${doc}: a row with ${key}`);
        }
      }
    },
  };
}

function version1() {
  const { gas, expect, finish } = page("docs/contracts-v1.md", "JecpSplitter");
  const rows = {
    "`register`": "register",
    "`recordSettlement`, nothing accounted before": "record_first",
    "`recordSettlement`, again": "record_again",
    "… with the 52-byte identity": "record_again_with_identity",
    "`splitFor`, pushed": "split_push",
    "`splitFor`, escrowed": "split_escrow",
    "`withdraw`": "withdraw",
    "`deactivate` with a pending balance": "deactivate_with_pending_balance",
    "`setRelayer`": "set_relayer",
  };
  for (const [label, key] of Object.entries(rows)) expect(`| ${label} | ${gas(key)} |`);
  finish();
}

function version2() {
  const { gas, each, expect, finish } = page("docs/contracts.md", "JecpSplitterV2");
  const over = (size) => gas(`settle_${size}_over_bare_pull_gas`);
  const row = (label, size) =>
    `| ${label} | ${gas(`bare_pull_${size}`)} | ${gas(`settle_${size}`)} |`;

  const allowed = { 1: "50,000", 10: "7,200", 50: "-", 100: "3,200", 300: "2,900" };
  for (const [count, limit] of Object.entries(allowed)) {
    const recorded = each(`record_${count}`, count);
    expect(`${row(count, count)} **${over(count)}** | ${limit} | ${recorded} `);
  }
  const ten = "100_over_10_capabilities";
  const recorded = each(`record_${ten}`, 100);
  expect(`${row("100 over 10 capabilities", ten)} **${over(ten)}** | 4,800 | ${recorded} |`);
  const fresh = { "1 in a fresh word": 1, "100 in a fresh word": 100, "300 in fresh words": 300 };
  for (const [label, count] of Object.entries(fresh)) {
    const size = `${count}_in_fresh_word`;
    expect(`${row(label, size)} ${over(size)} |`);
  }

  const [one, ten_, hundred, most] = [1, 10, 100, 300].map((n) => over(`${n}_behind_proxy`));
  expect(`${one}, ${ten_}, ${hundred} and ${most} above the bare loop at 1, 10, 100 and 300`);
  const perPayment = gas("settle_calldata_bytes_per_payment");
  const perBatch = gas("settle_calldata_bytes_per_batch");
  expect(`Calldata: ${perPayment} bytes per payment, ${perBatch} per batch`);

  const escrow = `${gas("settle_1_into_first_escrow")} / ${gas("settle_1_into_escrow")}`;
  const rows = {
    "`refund`, 100": gas("refund_100"),
    "`settle`, 1, provider's share into a new escrow / an old one": escrow,
    "`settle`, 100, all booked already": gas("settle_100_booked_already"),
    "`withdraw`": gas("withdraw"),
    "`register`": gas("register"),
    "`approve`, first / again": `${gas("approve")} / ${gas("approve_again")}`,
    "`revoke`": gas("revoke"),
    "`deactivate`": gas("deactivate"),
    "`invalidateNonce`": gas("invalidateNonce"),
    "`setRelayer`": gas("setRelayer"),
  };
  for (const [label, cell] of Object.entries(rows)) expect(`| ${label} | ${cell} |`);
  // Of these the page shows the differences.
  finish("_behind_proxy");
}

version1();
version2();
for (const row of missing) console.error(`missing in ${row}`);
if (missing.length !== 0) process.exit(1);
console.log("gas tables: as measured");
