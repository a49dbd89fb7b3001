// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "forge-std/Vm.sol";
import {JecpSplitterV2} from "../../../src/JecpSplitterV2.sol";
import {IJecpSplitterV2} from "../../../src/interfaces/IJecpSplitterV2.sol";
import {UsdcDouble} from "../../doubles/UsdcDouble.sol";
import {V2Base} from "../../v2/V2Base.t.sol";

/// @dev Everybody who can touch a Splitter, doing what they can do in any order, and the sums that
/// an outsider would keep. It owns the token. An honest settler gives each (payer, nonce) one
/// number, and records or refunds what reached the Splitter; a dishonest one does neither.
contract V2Handler is V2Base {
    enum Fate {
        Open,
        PulledHere,
        Gone
    }

    struct Known {
        Terms t;
        bytes32 boundTo;
        Fate fate;
        uint256 timesBooked;
        bool taken;
    }

    uint256 internal constant MOST_PAYMENTS = 48;

    bool public immutable HONEST;

    bytes32[3] public ids = [CAPABILITY, OTHER, keccak256("demo:third")];
    Vm.Wallet[3] internal providers;
    address[] internal payers;
    Known[] internal pool;
    mapping(bytes32 key => uint256 indexPlusOne) internal known;
    uint64 internal nextNumber;
    uint64[] public bookedNumbers;
    mapping(uint64 number => uint256) internal timesNumberBooked;
    bool public aNumberWasBookedTwice;

    // What an outsider adds up.
    uint256 public settledSum;
    uint256 public recordedSum;
    uint256 public refundedSum;
    uint256 public refundsPaid;
    uint256 public donated;
    uint256 public pulledByOthers;
    uint256 public mostTimesBooked;
    uint256 public booked;
    address public lastRelayer;
    uint256 public escrows;
    uint256 public withdrawals;

    /// What provider and relayer agreed on, per capability.
    mapping(bytes32 id => bytes32 terms) public agreed;
    mapping(bytes32 id => mapping(address => uint16[3])) internal consented;

    /// Every nonce that a provider ever used.
    address[] internal nonceOwners;
    bytes32[] internal nonces;
    uint256 public rotations;
    uint256 public refusals;

    constructor(bool honest) {
        HONEST = honest;
    }

    function setUp() public override {
        super.setUp();
        providers[0] = provider;
        providers[1] = otherProvider;
        providers[2] = vm.createWallet("third provider");
        for (uint256 i = 0; i < 3; ++i) {
            payers.push(vm.addr(PAYER_KEY + 1 + i));
            usdc.mint(payers[i], 1000 * CAP);
        }
        lastRelayer = relayer;
        consented[CAPABILITY][provider.addr] = [uint16(8500), 1000, 500];
        agreed[CAPABILITY] = keccak256(abi.encode(provider.addr, [uint16(8500), 1000, 500]));
        makePayable(OTHER, otherProvider, [uint16(7001), 1999, 1000]);
        consented[OTHER][otherProvider.addr] = [uint16(7001), 1999, 1000];
        agreed[OTHER] = keccak256(abi.encode(otherProvider.addr, [uint16(7001), 1999, 1000]));
    }

    // ------------------------------------------------------------ payers

    function signs(uint256 who, uint256 value, uint256 index, uint256 binding) external {
        if (pool.length == MOST_PAYMENTS) return;
        Known memory k;
        // Far apart now and then, so that words of the bitmap change.
        nextNumber += binding % 5 == 0 ? 200 : 1;
        k.t = terms(nextNumber);
        k.t.key = PAYER_KEY + 1 + who % 3;
        k.t.from = vm.addr(k.t.key);
        k.t.value = value % 16 == 0 ? CAP + 1 : value % PRICE;
        k.t.index = index % 3;
        if (binding % 3 == 0) {
            k.boundTo = ids[binding / 3 % 3];
            k.t.nonce = splitter.boundNonce(k.boundTo, nextNumber);
        }
        pool.push(k);
        known[keccak256(abi.encode(k.t.from, k.t.nonce))] = pool.length;
    }

    function cancels(uint256 seed) external {
        if (pool.length == 0 || usdc.paused()) return;
        Known storage k = pool[seed % pool.length];
        if (usdc.authorizationState(k.t.from, k.t.nonce)) return;
        cancel(k.t);
        k.fate = Fate.Gone;
    }

    function spendsElsewhere(uint256 seed) external {
        if (pool.length == 0) return;
        Known storage k = pool[seed % pool.length];
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(k.t.key, authorizationDigest(k.t, stranger));
        try usdc.transferWithAuthorization(
            k.t.from, stranger, k.t.value, k.t.validAfter, k.t.validBefore, k.t.nonce, v, r, s
        ) {
            k.fate = Fate.Gone;
        } catch {}
    }

    // ------------------------------------------------------------ strangers

    function pulls(uint256 seed) external {
        if (pool.length == 0) return;
        Known storage k = pool[seed % pool.length];
        try this.pullAsStrangerOrRevert(sign(k.t)) {
            k.fate = Fate.PulledHere;
            pulledByOthers += k.t.value;
        } catch {}
    }

    function pullAsStrangerOrRevert(IJecpSplitterV2.Payment calldata p) external {
        pullAsStranger(p);
    }

    function donates(uint256 value) external {
        if (usdc.paused() || usdc.isBlacklisted(address(splitter))) return;
        value = value % PRICE;
        usdc.mint(address(splitter), value);
        donated += value;
    }

    function withdraws(uint256 seed) external {
        address account = accountAt(seed);
        bool possible = splitter.escrow(account) != 0 && !usdc.paused()
            && !usdc.isBlacklisted(account) && !usdc.isBlacklisted(address(splitter));
        vm.recordLogs();
        vm.prank(stranger);
        if (possible) {
            splitter.withdraw(account);
            ++withdrawals;
        } else {
            (bool success,) =
                address(splitter).call(abi.encodeCall(IJecpSplitterV2.withdraw, (account)));
            assertFalse(success);
        }
        countRefundsPaid(vm.getRecordedLogs());
    }

    /// @dev Nobody but the settler books anything, whatever he sends.
    function strangersTry(uint256 who, uint256 seed) external {
        address[6] memory others =
            [hubTreasury, networkReserve, lastRelayer, relayerAdmin, provider.addr, stranger];
        IJecpSplitterV2.Batch memory batch = someBatch(seed, true);
        bytes[3] memory calls = [
            abi.encodeCall(IJecpSplitterV2.settle, (batch, PULL_GAS)),
            abi.encodeCall(IJecpSplitterV2.record, (batch, CHECK_GAS)),
            abi.encodeCall(IJecpSplitterV2.refund, (batch, CHECK_GAS))
        ];
        vm.recordLogs();
        for (uint256 i = 0; i < 3; ++i) {
            vm.prank(others[who % 6]);
            (bool success,) = address(splitter).call(calls[i]);
            assertFalse(success);
        }
        assertEq(vm.getRecordedLogs().length, 0);
    }

    // ------------------------------------------------------------ the settler

    function settles(uint256 seed) external {
        IJecpSplitterV2.Batch memory batch = someBatch(seed, true);
        vm.recordLogs();
        settle(batch);
        count(vm.getRecordedLogs());
    }

    function records(uint256 seed) external {
        IJecpSplitterV2.Batch memory batch = someBatch(seed, !HONEST);
        vm.recordLogs();
        vm.prank(settler);
        try splitter.record(batch, CHECK_GAS) {
            count(vm.getRecordedLogs());
        } catch (bytes memory reason) {
            assertEq(reason, abi.encodeWithSelector(IJecpSplitterV2.NoPushSucceeded.selector));
        }
    }

    function refunds(uint256 seed) external {
        IJecpSplitterV2.Batch memory batch = someBatch(seed, !HONEST);
        vm.recordLogs();
        refund(batch);
        count(vm.getRecordedLogs());
    }

    // ------------------------------------------------------------ providers, relayer, admin

    function registers(uint256 which, uint256 who, uint256 shares) external {
        bytes32 id = ids[which % 3];
        (,,,, bool active) = splitter.capabilities(id);
        if (active) return;
        Vm.Wallet memory wallet = providers[who % 3];
        // forge-lint: disable-next-line(unsafe-typecast)
        uint16 h = uint16(500 + shares % 1000);
        uint16[3] memory bps = [10_000 - h - 100, h, uint16(100)];
        register(id, wallet, bps);
        consented[id][wallet.addr] = bps;
        used(wallet.addr, bytes32(registrationNonces));
    }

    function approves(uint256 which, uint256 who) external {
        bytes32 id = ids[which % 3];
        address provider_ = providers[who % 3].addr;
        uint16[3] memory bps = consented[id][provider_];
        (,,,, bool active) = splitter.capabilities(id);
        if (active || bps[0] == 0) return;
        vm.prank(lastRelayer);
        splitter.approve(id, provider_, bps[0], bps[1], bps[2]);
        agreed[id] = keccak256(abi.encode(provider_, bps));
    }

    function revokes(uint256 which) external {
        bytes32 id = ids[which % 3];
        if (agreed[id] == 0) return;
        vm.prank(lastRelayer);
        splitter.revoke(id);
        agreed[id] = 0;
    }

    function deactivates(uint256 which, uint256 who) external {
        bytes32 id = ids[which % 3];
        address provider_ = providers[who % 3].addr;
        uint16[3] memory bps = consented[id][provider_];
        if (bps[0] == 0) return;
        vm.prank(provider_);
        splitter.deactivate(id);
        delete consented[id][provider_];
        if (agreed[id] == keccak256(abi.encode(provider_, bps))) agreed[id] = 0;
    }

    /// @dev Fresh ones once, used ones never again.
    function invalidatesNonce(uint256 who, uint256 seed) external {
        address provider_ = providers[who % 3].addr;
        bytes32 nonce = keccak256(abi.encode("invalidated", seed % 8));
        bool fresh = !splitter.usedNonces(provider_, nonce);
        vm.prank(provider_);
        (bool success,) =
            address(splitter).call(abi.encodeCall(IJecpSplitterV2.invalidateNonce, (nonce)));
        assertEq(success, fresh);
        if (fresh) used(provider_, nonce);
    }

    /// @dev Registrations that their provider did not sign, or signed over a used nonce; approvals,
    /// revocations and rotations by those who may not.
    function usurps(uint256 which, uint256 who, uint256 seed) external {
        bytes32 id = ids[which % 3];
        Vm.Wallet memory wallet = providers[who % 3];
        uint16[3] memory bps = [uint16(9400), 500, 100];
        bytes32 fresh = "never used";
        refused(wallet.addr, id, wallet.addr, bps, fresh, providers[(who % 3 + 1) % 3]);
        if (nonces.length != 0) {
            uint256 i = seed % nonces.length;
            for (uint256 j = 0; j < 3; ++j) {
                if (providers[j].addr != nonceOwners[i]) continue;
                refused(stranger, id, nonceOwners[i], bps, nonces[i], providers[j]);
            }
        }
        address[6] memory others =
            [hubTreasury, networkReserve, settler, relayerAdmin, wallet.addr, stranger];
        address caller = others[seed % 6];
        bps = consented[id][wallet.addr];
        refused(
            caller,
            abi.encodeCall(IJecpSplitterV2.approve, (id, wallet.addr, bps[0], bps[1], bps[2]))
        );
        refused(caller, abi.encodeCall(IJecpSplitterV2.revoke, (id)));
        if (caller == relayerAdmin) caller = lastRelayer;
        refused(caller, abi.encodeCall(IJecpSplitterV2.setRelayer, (stranger)));
    }

    function rotatesRelayer(uint256 seed) external {
        vm.recordLogs();
        address next = address(uint160(uint256(keccak256(abi.encode("relayer", seed % 4)))));
        vm.prank(relayerAdmin);
        splitter.setRelayer(next);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 1);
        assertEq(logs[0].topics[0], IJecpSplitterV2.RelayerRotated.selector);
        assertEq(address(uint160(uint256(logs[0].topics[1]))), lastRelayer);
        lastRelayer = address(uint160(uint256(logs[0].topics[2])));
        ++rotations;
    }

    // ------------------------------------------------------------ the token

    /// @dev Mostly lifted again, or nothing else would happen.
    function blacklists(uint256 seed, uint256 who) external {
        address account = who % 20 == 0 ? address(splitter) : accountAt(who);
        if (usdc.isBlacklisted(account)) usdc.unBlacklist(account);
        else if (seed % 3 == 0) usdc.blacklist(account);
        if (seed % 2 == 0) usdc.unBlacklist(address(splitter));
    }

    function pauses(uint256 seed) external {
        if (usdc.paused()) usdc.unpause();
        else if (seed % 4 == 0) usdc.pause();
    }

    // ------------------------------------------------------------ what the invariants read

    function token() external view returns (UsdcDouble) {
        return usdc;
    }

    function contract_() external view returns (JecpSplitterV2) {
        return splitter;
    }

    function accountCount() public pure returns (uint256) {
        return 8;
    }

    /// @dev Whoever can be paid: three providers, hub, reserve, three payers.
    function accountAt(uint256 seed) public view returns (address) {
        uint256 i = seed % accountCount();
        if (i < 3) return providers[i].addr;
        if (i == 3) return hubTreasury;
        if (i == 4) return networkReserve;
        return payers[i - 5];
    }

    function poolLength() external view returns (uint256) {
        return pool.length;
    }

    function numberAt(uint256 i) external view returns (uint64 number, bool isBooked) {
        return (pool[i].t.number, pool[i].timesBooked != 0);
    }

    function noncesLength() external view returns (uint256) {
        return nonces.length;
    }

    function nonceAt(uint256 i) external view returns (address owner, bytes32 nonce) {
        return (nonceOwners[i], nonces[i]);
    }

    /// @dev Payer and authorization nonce of a payment, and whether it was recorded or refunded.
    function takenAt(uint256 i) external view returns (address from, bytes32 nonce, bool taken) {
        return (pool[i].t.from, pool[i].t.nonce, pool[i].taken);
    }

    function bookedNumbersLength() external view returns (uint256) {
        return bookedNumbers.length;
    }

    // ------------------------------------------------------------ helpers

    /// @dev Up to four payments of the pool. `all` false: only those that reached the Splitter, or
    /// were not pulled at all, as one knows who reads the token's events.
    function someBatch(uint256 seed, bool all)
        internal
        returns (IJecpSplitterV2.Batch memory batch)
    {
        uint256 wanted = pool.length == 0 ? 0 : 1 + seed % 4;
        Known[] memory chosen = new Known[](wanted);
        uint256 got;
        for (uint256 i = 0; i < wanted; ++i) {
            Known memory k = pool[uint256(keccak256(abi.encode(seed, i))) % pool.length];
            if (all || k.fate != Fate.Gone || k.timesBooked != 0) chosen[got++] = k;
        }
        batch = batchOf(got);
        bytes32[] memory all_ = new bytes32[](3);
        for (uint256 i = 0; i < 3; ++i) {
            all_[i] = ids[i];
        }
        named(batch, all_);
        for (uint256 i = 0; i < got; ++i) {
            // A dishonest settler numbers as he likes.
            if (!HONEST && seed % 3 == 0) chosen[i].t.number = ++nextNumber;
            batch.payments[i] = sign(chosen[i].t);
        }
    }

    function count(Vm.Log[] memory logs) internal {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != address(splitter)) continue;
            bytes32 topic = logs[i].topics[0];
            if (topic == IJecpSplitterV2.Escrowed.selector) {
                ++escrows;
                checkEscrowHasAReason(address(uint160(uint256(logs[i].topics[1]))));
            }
            address from;
            uint64 number;
            uint256 value;
            bytes32 nonce;
            if (topic == IJecpSplitterV2.PaymentRefunded.selector) {
                from = address(uint160(uint256(logs[i].topics[1])));
                (number, value, nonce) = abi.decode(logs[i].data, (uint64, uint256, bytes32));
                refundedSum += value;
            } else if (
                topic == IJecpSplitterV2.PaymentSettled.selector
                    || topic == IJecpSplitterV2.PaymentRecorded.selector
            ) {
                (number, value, nonce) = abi.decode(logs[i].data, (uint64, uint256, bytes32));
                // forge-lint: disable-next-line(unsafe-typecast)
                from = address(uint160(value >> 96));
                value &= type(uint96).max;
                if (topic == IJecpSplitterV2.PaymentSettled.selector) settledSum += value;
                else recordedSum += value;
                bytes32 boundTo = pool[known[keccak256(abi.encode(from, nonce))] - 1].boundTo;
                assertTrue(boundTo == 0 || boundTo == logs[i].topics[1], "binding");
                assertTrue(agreed[logs[i].topics[1]] != 0, "booked to an unpayable capability");
            } else {
                continue;
            }
            Known storage k = pool[known[keccak256(abi.encode(from, nonce))] - 1];
            assertEq(value, k.t.value, "value");
            ++k.timesBooked;
            if (topic != IJecpSplitterV2.PaymentSettled.selector) k.taken = true;
            ++booked;
            if (k.timesBooked > mostTimesBooked) mostTimesBooked = k.timesBooked;
            if (timesNumberBooked[number]++ == 0) bookedNumbers.push(number);
            else aNumberWasBookedTwice = true;
        }
        countRefundsPaid(logs);
    }

    /// @dev No escrow in a healthy batch: only for whom the token does not pay just now.
    function checkEscrowHasAReason(address account) internal view {
        assertTrue(
            usdc.paused() || usdc.isBlacklisted(account) || usdc.isBlacklisted(address(splitter)),
            "escrow in a healthy batch"
        );
    }

    function used(address owner, bytes32 nonce) internal {
        nonceOwners.push(owner);
        nonces.push(nonce);
    }

    function refused(
        address caller,
        bytes32 id,
        address provider_,
        uint16[3] memory bps,
        bytes32 nonce,
        Vm.Wallet memory signer
    ) internal {
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(signer, registrationDigest(id, provider_, bps, nonce, block.timestamp));
        bytes memory signature = abi.encodePacked(r, s, v);
        refused(
            caller,
            abi.encodeCall(
                IJecpSplitterV2.register,
                (id, provider_, bps[0], bps[1], bps[2], nonce, block.timestamp, signature)
            )
        );
    }

    function refused(address caller, bytes memory call) internal {
        vm.prank(caller);
        (bool success,) = address(splitter).call(call);
        assertFalse(success);
        ++refusals;
    }

    function countRefundsPaid(Vm.Log[] memory logs) internal {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (
                logs[i].emitter != address(usdc)
                    || logs[i].topics[0] != UsdcDouble.Transfer.selector
            ) continue;
            if (logs[i].topics[1] != bytes32(uint256(uint160(address(splitter))))) continue;
            address to = address(uint160(uint256(logs[i].topics[2])));
            for (uint256 j = 0; j < 3; ++j) {
                if (to == payers[j]) refundsPaid += abi.decode(logs[i].data, (uint256));
            }
        }
    }
}
