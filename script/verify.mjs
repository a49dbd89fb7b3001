#!/usr/bin/env node
// Verifies a deployed Splitter at Basescan or Sourcify.
//
//   node script/verify.mjs CHAIN_ID [NAME] [--submit etherscan|sourcify]
//
// Reads deployments/CHAIN_ID.json (DEPLOYMENTS_DIR names another folder) and saves the compiler's
// standard-JSON input beside it, as CHAIN_ID-NAME.standard-input.json. Then it compiles that very
// input and derives the CREATE2 address from its bytecode: a saved input that does not lead to the
// deployed address is refused. All of this works without a network. Last it prints the command that
// submits the source; --submit runs it (ETHERSCAN_API_KEY is read by forge).
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { concat, getCreate2Address, keccak256 } from "viem";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const FORGE = join(ROOT, "node_modules/.bin/forge");
const SOLC = join(ROOT, "tools/solc");
const CREATE2_FACTORY = "0x4e59b44847b379578588920cA78FbF26c0B4956C";

function refuse(what) {
  console.error(`verify: ${what}`);
  process.exit(1);
}

function parse(args) {
  const rest = [...args];
  let submit;
  const at = rest.indexOf("--submit");
  if (at >= 0) {
    [, submit] = rest.splice(at, 2);
    if (submit !== "etherscan" && submit !== "sourcify") {
      refuse("--submit takes etherscan or sourcify");
    }
  }
  const [chainId, name = "JecpSplitter"] = rest;
  if (!/^\d+$/.test(chainId ?? "")) refuse("name the chain id, for example 84532");
  return { chainId, name, submit };
}

/**
 * What the compiler is given for one contract, for the sources as they are here. `forge
 * verify-contract --show-standard-json-input` would ask the network for a list of compilers first.
 */
function standardInput(source) {
  const scratch = join(ROOT, "target/verify");
  rmSync(scratch, { recursive: true, force: true });
  execFileSync(
    FORGE,
    ["build", source, "--build-info", "--out", scratch, "--cache-path", join(scratch, "cache")],
    { cwd: ROOT, stdio: "pipe" },
  );
  const [file] = readdirSync(join(scratch, "build-info"));
  const { input } = JSON.parse(readFileSync(join(scratch, "build-info", file), "utf8"));
  const { language, sources, settings } = input;
  settings.outputSelection = { "*": { "*": ["abi", "evm.bytecode", "evm.deployedBytecode"] } };
  return { language, sources, settings };
}

/** The creation code that the compiler makes of a standard-JSON input. */
function compile(input, source, name) {
  const output = JSON.parse(
    execFileSync(SOLC, ["--standard-json"], {
      input: JSON.stringify(input),
      maxBuffer: 1 << 28,
      encoding: "utf8",
    }),
  );
  const bytecode = output.contracts?.[source]?.[name]?.evm.bytecode.object;
  if (!bytecode) refuse(`the saved input does not compile ${source}:${name}`);
  return `0x${bytecode}`;
}

const { chainId, name, submit } = parse(process.argv.slice(2));
const folder = process.env.DEPLOYMENTS_DIR ?? join(ROOT, "deployments");
const book = join(folder, `${chainId}.json`);
if (!existsSync(book)) refuse(`${book} is missing; deploy first`);
const entry = JSON.parse(readFileSync(book, "utf8"))[name];
if (!entry) refuse(`${book}: ${name} is missing; deploy it first`);

const source = `contracts/src/${name}.sol`;
const contract = `${source}:${name}`;
const input = standardInput(source);
const creationCode = compile(input, source, name);
const address = getCreate2Address({
  from: CREATE2_FACTORY,
  salt: entry.salt,
  bytecodeHash: keccak256(concat([creationCode, entry.constructorArguments])),
});
if (address.toLowerCase() !== entry.address.toLowerCase()) {
  refuse(`these sources lead to ${address}, not to ${entry.address}: check out what was deployed`);
}

const saved = join(folder, `${chainId}-${name}.standard-input.json`);
writeFileSync(saved, `${JSON.stringify(input, null, 2)}\n`);
console.log(`saved ${saved}`);
console.log(`its bytecode leads to ${entry.address}, as deployed`);

const version = execFileSync(SOLC, ["--version"], { encoding: "utf8" });
const [, compiler] = version.match(/Version: (\S+\+commit\.[0-9a-f]+)/);
const command = (verifier) => [
  "verify-contract",
  "--chain",
  chainId,
  "--verifier",
  verifier,
  "--compiler-version",
  compiler,
  "--constructor-args",
  entry.constructorArguments,
  "--watch",
  entry.address,
  contract,
];
if (submit) {
  const run = spawnSync(FORGE, command(submit), { cwd: ROOT, stdio: "inherit" });
  process.exit(run.status ?? 1);
}
for (const verifier of ["etherscan", "sourcify"]) {
  console.log(`\n# ${verifier === "etherscan" ? "Basescan, with ETHERSCAN_API_KEY" : "Sourcify"}`);
  console.log(["node_modules/.bin/forge", ...command(verifier)].join(" "));
}
console.log("\n# or by hand: upload the saved input as Solidity (Standard-Json-Input)");
