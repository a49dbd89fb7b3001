#!/usr/bin/env node
// The forge scripts against a real anvil, as a deployer runs them: deploy, register, rotate the
// relayer, migrate to another Splitter, verify; each signed by an unlocked account, some by a
// keystore, and by AWS KMS when AWS_KMS_KEY_ID is set. What must be refused is tried as well, and
// must have sent nothing.
//
//   node tests/scripts.mjs
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { createCipheriv, randomBytes, randomUUID, scryptSync } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  createPublicClient,
  createTestClient,
  createWalletClient,
  encodeFunctionData,
  getAddress,
  hashTypedData,
  http,
  keccak256,
  parseAbi,
  toHex,
  zeroAddress,
} from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const FOLDER = join(ROOT, "target/scripts");
const FORGE = join(ROOT, "node_modules/.bin/forge");
const USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const CHAIN_ID = 31337;

const token = parseAbi([
  "function initialize(string name, address admin)",
  "function mint(address to, uint256 amount)",
  "function balanceOf(address account) view returns (uint256)",
]);
const splitterAbi = parseAbi([
  "function relayer() view returns (address)",
  "function capabilities(bytes32) view returns (address, uint16, uint16, uint16, bool)",
  "function recordSettlement(bytes32 capabilityId, uint256 amount)",
  "function totalOwed() view returns (uint256)",
]);

let chain;
let test;
let wallet;
let url;
let accounts;

const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const write = (path, json) => writeFileSync(path, JSON.stringify(json, null, 2));
const step = (what) => console.log(`- ${what}`);

/** Starts anvil on a free port; resolves once it listens. */
function startAnvil() {
  const anvil = spawn(join(ROOT, "node_modules/.bin/anvil"), [
    ...["--port", "0", "--chain-id", String(CHAIN_ID), "--hardfork", "osaka"],
  ]);
  return new Promise((resolve, reject) => {
    let said = "";
    anvil.stdout.on("data", (data) => {
      said += data;
      const found = said.match(/Listening on (\S+)/);
      if (found) resolve([anvil, `http://${found[1]}`]);
    });
    anvil.on("exit", () => reject(new Error(`anvil ended: ${said}`)));
  });
}

/** Runs a forge script with broadcast. */
function script(name, { signature, signer, environment = {}, broadcast = true }) {
  const run = spawnSync(
    FORGE,
    [
      ...["script", `script/${name}.s.sol`, "--rpc-url", url, "--slow"],
      ...(broadcast ? ["--broadcast"] : []),
      ...(signature ? ["--sig", signature] : []),
      ...signer,
    ],
    {
      cwd: ROOT,
      encoding: "utf8",
      env: {
        ...process.env,
        DEPLOYMENTS_DIR: FOLDER,
        FOUNDRY_BROADCAST: join(FOLDER, "broadcast"),
        ...environment,
      },
    },
  );
  return { status: run.status, said: run.stdout + run.stderr };
}

function succeeds(name, options) {
  const { status, said } = script(name, options);
  assert.equal(status, 0, `${name} failed:\n${said}`);
  return said;
}

/** The script must fail with the sentence, and no account may have sent anything. */
async function refuses(name, options, sentence) {
  const before = await nonces();
  const { status, said } = script(name, options);
  assert.notEqual(status, 0, `${name} must refuse: ${sentence}`);
  assert.ok(said.includes(sentence), `${name}: "${sentence}" is not in\n${said}`);
  assert.deepEqual(await nonces(), before, `${name} sent something before it refused`);
}

const nonces = () =>
  Promise.all(accounts.map((address) => chain.getTransactionCount({ address })));
const unlocked = (address) => ["--unlocked", "--sender", address];
const call = (address, functionName, args = []) =>
  chain.readContract({ address, abi: splitterAbi, functionName, args });

async function send(from, to, data) {
  const hash = await wallet.sendTransaction({ account: from, to, data });
  const receipt = await chain.waitForTransactionReceipt({ hash });
  assert.equal(receipt.status, "success");
}

async function layToken() {
  const built = spawnSync(FORGE, ["build"], { cwd: ROOT, encoding: "utf8" });
  assert.equal(built.status, 0, built.stdout + built.stderr);
  const artifact = read(join(ROOT, "out/UsdcDouble.sol/UsdcDouble.json"));
  await test.setCode({ address: USDC, bytecode: artifact.deployedBytecode.object });
  const args = ["USDC", accounts[0]];
  await send(
    accounts[0],
    USDC,
    encodeFunctionData({ abi: token, functionName: "initialize", args }),
  );
}

async function signed(registration, key) {
  const account = privateKeyToAccount(key);
  const { typedData } = registration;
  assert.equal(hashTypedData(typedData), registration.digest, "typed data and digest agree");
  return account.signTypedData(typedData);
}

function typedData(registration) {
  const field = (name, type) => ({ name, type });
  const { signature, chainId, splitter, ...message } = registration;
  return {
    domain: { name: "JecpSplitter", version: "1.1.1", chainId, verifyingContract: splitter },
    types: {
      Register: [
        field("capabilityId", "bytes32"),
        field("provider", "address"),
        field("providerBps", "uint16"),
        field("hubBps", "uint16"),
        field("reserveBps", "uint16"),
        field("nonce", "bytes32"),
        field("deadline", "uint256"),
      ],
    },
    primaryType: "Register",
    message,
  };
}

async function main() {
  accounts = (await chain.request({ method: "eth_accounts" })).map((a) => getAddress(a));
  const [deployer, , , , admin, settler, newSettler, newRelayer] = accounts;
  await layToken();
  const config = read(join(ROOT, "script/config/31337.json"));
  const deadline = Number((await chain.getBlock()).timestamp) + 86_400;

  step("deploy: a dry run writes nothing; an unlocked account; and again without a transaction");
  succeeds("Deploy", { signer: unlocked(deployer), broadcast: false });
  assert.ok(!existsSync(join(FOLDER, "31337.json")));
  const deployed = succeeds("Deploy", { signer: unlocked(deployer) });
  assert.ok(deployed.includes("JecpSplitter deployed to"));
  const first = read(join(FOLDER, "31337.json"));
  const from = first.JecpSplitter.address;
  assert.equal(first.JecpSplitter.checkedOnChain, false);
  assert.ok(deployed.includes("run it again: the second run holds the chain against the build"));
  const before = await nonces();
  succeeds("Deploy", { signer: unlocked(deployer) });
  assert.deepEqual(await nonces(), before);
  first.JecpSplitter.checkedOnChain = true;
  assert.deepEqual(read(join(FOLDER, "31337.json")), first);

  step("deploy refuses, and sends nothing");
  for (const [change, sentence] of [
    [{ chainId: 8453 }, "chainId is not the chain behind --rpc-url"],
    [{ usdc: deployer }, "usdc has no code"],
    [{ relayer: zeroAddress }, "relayer is not set"],
    [{ authorizedSettler: config.relayer }, "authorizedSettler is the same address as relayer"],
    [{ facilitators: [config.authorizedSettler] }, "authorizedSettler is one of facilitators"],
    [{ allowEoaRoles: false }, "hubTreasury is not a Safe"],
    [{ version: "3" }, 'version is neither "1.1.1" nor "2"'],
    [{ version: undefined }, "version is missing"],
    [{ facilitators: undefined }, "facilitators is missing"],
    [{ relayer: newRelayer }, `replaces does not name ${from}`],
  ]) {
    const wrong = join(FOLDER, "wrong.json");
    write(wrong, { ...config, ...change });
    const environment = { DEPLOY_CONFIG: wrong };
    await refuses("Deploy", { signer: unlocked(deployer), environment }, sentence);
  }

  step("register: a keystore signs the transaction");
  const key = generatePrivateKey();
  const provider = privateKeyToAccount(key).address;
  const echo = keccak256(toHex("demo:echo"));
  const registration = {
    chainId: CHAIN_ID,
    splitter: from,
    capabilityId: echo,
    provider,
    providerBps: 8500,
    hubBps: 1000,
    reserveBps: 500,
    nonce: generatePrivateKey(),
    deadline,
  };
  registration.signature = await privateKeyToAccount(key).signTypedData(typedData(registration));
  const file = join(FOLDER, "registration.json");
  const environment = { REGISTRATION: file };
  write(file, { ...registration, signature: "0x" });
  await refuses("Register", { signer: unlocked(deployer), environment }, "signature is missing");
  write(file, { ...registration, deadline: 1 });
  await refuses("Register", { signer: unlocked(deployer), environment }, "deadline has passed");
  write(file, registration);
  succeeds("Register", { signer: await keystore(), environment });
  assert.equal((await call(from, "capabilities", [echo]))[0], provider);
  assert.ok(succeeds("Register", { signer: unlocked(deployer), environment }).includes("already"));

  step("rotate: a Safe's transaction when somebody else runs it, sent when the admin does");
  const rotation = join(FOLDER, "rotation.json");
  write(rotation, { chainId: CHAIN_ID, splitter: from, newRelayer });
  const rotate = { environment: { ROTATION: rotation } };
  const quiet = await nonces();
  succeeds("RotateRelayer", { ...rotate, signer: unlocked(deployer) });
  assert.deepEqual(await nonces(), quiet);
  const safe = read(join(FOLDER, "31337-rotate-relayer.json"));
  assert.equal(safe.transactions[0].contractInputsValues.newRelayer, newRelayer);
  succeeds("RotateRelayer", { ...rotate, signer: unlocked(admin) });
  assert.equal(await call(from, "relayer"), newRelayer);
  write(rotation, { chainId: CHAIN_ID, splitter: from, newRelayer: settler });
  await refuses(
    "RotateRelayer",
    { ...rotate, signer: unlocked(admin) },
    "newRelayer is the settler",
  );

  step("migrate to version 2: export, sign, register, approve, drain");
  const second = join(FOLDER, "second");
  mkdirSync(second, { recursive: true });
  const other = join(FOLDER, "second.json");
  const version2 = { version: "2", minHubBps: 1000, minReserveBps: 500 };
  write(other, { ...config, ...version2, authorizedSettler: newSettler });
  const environmentOfSecond = { DEPLOY_CONFIG: other, DEPLOYMENTS_DIR: second };
  succeeds("Deploy", { signer: unlocked(deployer), environment: environmentOfSecond });
  const to = read(join(second, "31337.json")).JecpSplitterV2.address;
  const migration = join(FOLDER, "migration.json");
  const folder = join(FOLDER, "export");
  write(migration, { chainId: CHAIN_ID, from, to, fromBlock: 0, deadline, folder });
  const migrate = {
    signer: unlocked(deployer),
    environment: { MIGRATION: migration },
  };
  succeeds("Migrate", { ...migrate, signature: "exportCapabilities()" });
  const exported = join(folder, `${echo}.json`);
  await refuses("Migrate", { ...migrate, signature: "register()" }, "signature is missing");
  write(exported, { ...read(exported), signature: await signed(read(exported), key) });
  succeeds("Migrate", { ...migrate, signature: "register()" });
  const approve = { environment: { REGISTRATION: exported }, signer: unlocked(config.relayer) };
  const stranger = { ...approve, signer: unlocked(deployer) };
  await refuses("Approve", stranger, "is not the Splitter's relayer");
  succeeds("Approve", approve);
  assert.equal((await call(to, "capabilities", [echo]))[0], provider);

  const mint = encodeFunctionData({ abi: token, functionName: "mint", args: [from, 200_000n] });
  await send(deployer, USDC, mint);
  const record = { abi: splitterAbi, functionName: "recordSettlement", args: [echo, 200_000n] };
  await send(settler, from, encodeFunctionData(record));
  succeeds("Migrate", { ...migrate, signature: "drain()" });
  assert.equal(await call(from, "totalOwed"), 0n);
  const paid = { address: USDC, abi: token, functionName: "balanceOf", args: [provider] };
  assert.equal(await chain.readContract(paid), 170_000n);

  step("verify: the saved input leads to the deployed address");
  const verify = spawnSync("node", ["script/verify.mjs", String(CHAIN_ID)], {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, DEPLOYMENTS_DIR: FOLDER },
  });
  assert.equal(verify.status, 0, verify.stdout + verify.stderr);
  assert.ok(existsSync(join(FOLDER, "31337-JecpSplitter.standard-input.json")));

  if (process.env.AWS_KMS_KEY_ID) await kms(config, admin);
  else console.log("- KMS: skipped, AWS_KMS_KEY_ID is not set");
}

/** A keystore file (version 3, scrypt) of a fresh account with some ether. */
async function keystore() {
  const key = generatePrivateKey();
  const { address } = privateKeyToAccount(key);
  await test.setBalance({ address, value: 10n ** 18n });
  const [salt, iv] = [randomBytes(32), randomBytes(16)];
  const kdfparams = { dklen: 32, n: 1024, r: 8, p: 1, salt: salt.toString("hex") };
  const derived = scryptSync("password", salt, 32, { N: 1024, r: 8, p: 1 });
  const cipher = createCipheriv("aes-128-ctr", derived.subarray(0, 16), iv);
  const ciphertext = Buffer.concat([cipher.update(key.slice(2), "hex"), cipher.final()]);
  const mac = keccak256(Buffer.concat([derived.subarray(16), ciphertext])).slice(2);
  const file = join(FOLDER, "keystore.json");
  write(file, {
    version: 3,
    id: randomUUID(),
    address: address.slice(2).toLowerCase(),
    crypto: {
      cipher: "aes-128-ctr",
      cipherparams: { iv: iv.toString("hex") },
      ciphertext: ciphertext.toString("hex"),
      kdf: "scrypt",
      kdfparams,
      mac,
    },
  });
  return ["--keystore", file, "--password", "password", "--sender", address];
}

/** A deployment signed by a key in AWS KMS. */
async function kms(config, admin) {
  step("deploy: AWS KMS");
  const address = process.env.KMS_ADDRESS;
  await test.setBalance({ address, value: 10n ** 18n });
  const file = join(FOLDER, "kms.json");
  const folder = join(FOLDER, "kms");
  mkdirSync(folder, { recursive: true });
  write(file, { ...config, perTxCap: 2_000_000_000, relayerAdmin: admin });
  const environment = { DEPLOY_CONFIG: file, DEPLOYMENTS_DIR: folder };
  succeeds("Deploy", { signer: ["--aws", "--sender", address], environment });
  assert.equal(await chain.getTransactionCount({ address }), 1);
}

rmSync(FOLDER, { recursive: true, force: true });
mkdirSync(FOLDER, { recursive: true });
const [anvil, address] = await startAnvil();
try {
  url = address;
  const transport = http(url);
  chain = createPublicClient({ transport, pollingInterval: 50 });
  test = createTestClient({ mode: "anvil", transport });
  wallet = createWalletClient({
    transport,
    chain: { id: CHAIN_ID, name: "anvil", nativeCurrency: {}, rpcUrls: {} },
  });
  await main();
  console.log("done: the scripts do what they say");
} finally {
  anvil.kill();
}
