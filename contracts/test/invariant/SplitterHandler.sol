// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test, Vm} from "forge-std/Test.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";

/// @dev Does to a Splitter what its users, its settler, strangers and Circle can do. Whatever must
/// be refused is tried too, and the try fails the run if it is not refused. The ghost sums come
/// from the logs alone, as a reader of the chain sees them.
contract SplitterHandler is Test {
    bytes32 internal constant REGISTER_TYPEHASH =
        0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8;

    UsdcDouble internal immutable USDC;
    JecpSplitter internal immutable SPLITTER;
    address internal immutable HUB;
    address internal immutable RESERVE;
    address internal immutable SETTLER;
    address internal immutable ADMIN;
    uint256 internal immutable CAP;
    address internal immutable CIRCLE;

    bytes32[] public ids;
    address[] public providers;
    mapping(address provider => uint256 key) internal keys;
    bytes32[] public nonces;

    // Ghosts: from the logs.
    mapping(bytes32 id => uint256) public recorded;
    mapping(bytes32 id => uint256) public split;
    mapping(bytes32 id => bytes32) public terms;
    mapping(address provider => uint256) public escrowed;
    mapping(address provider => uint256) public withdrawn;
    uint256 public toProviders;
    uint256 public toHub;
    uint256 public toReserve;
    address public auditedRelayer;
    uint256 public rotations;

    // Ghosts: from what came in.
    uint256 public pulled;
    uint256 public donated;
    uint256 public totalRecorded;
    uint256 public totalSplit;
    uint256 public totalEscrowed;
    uint256 public totalWithdrawn;

    /// @dev How often each action did what it is for, so that a run can be seen not to be empty.
    mapping(string action => uint256) public done;

    constructor(
        UsdcDouble usdc,
        JecpSplitter splitter,
        address[4] memory roles,
        bytes32[] memory ids_,
        string[] memory names
    ) {
        (USDC, SPLITTER) = (usdc, splitter);
        (HUB, RESERVE, SETTLER, ADMIN) = (roles[0], roles[1], roles[2], roles[3]);
        CAP = splitter.PER_TX_CAP();
        CIRCLE = usdc.admin();
        ids = ids_;
        for (uint256 i = 0; i < names.length; i++) {
            (address provider, uint256 key) = makeAddrAndKey(names[i]);
            providers.push(provider);
            keys[provider] = key;
        }
        auditedRelayer = splitter.relayer();
    }

    function countOfIds() external view returns (uint256) {
        return ids.length;
    }

    function countOfProviders() external view returns (uint256) {
        return providers.length;
    }

    function countOfNonces() external view returns (uint256) {
        return nonces.length;
    }

    // ------------------------------------------------------------ registrations

    function register(uint256 idSeed, uint256 who, uint16 providerBps, uint16 hubBps) external {
        bytes32 id = ids[idSeed % ids.length];
        address provider = providers[who % providers.length];
        uint16[3] memory bps = _bps(providerBps, hubBps);
        bytes32 nonce = keccak256(abi.encode(nonces.length));
        bool active = _isActive(id);
        bytes memory call = _registration(id, provider, bps, nonce, keys[provider]);
        bool success = _call(address(this), call);
        assertEq(success, !active, "register");
        if (success) {
            nonces.push(nonce);
            done["register"]++;
        }
    }

    /// @dev Nobody registers for a provider without his signature, nor with a used nonce.
    function _registerForged(uint256 idSeed, uint256 who, uint256 nonceSeed) internal {
        bytes32 id = ids[idSeed % ids.length];
        address provider = providers[who % providers.length];
        uint256 key = keys[providers[(who % providers.length + 1) % providers.length]];
        uint16[3] memory bps = [uint16(10_000), 0, 0];
        _mustFail(address(this), _registration(id, provider, bps, keccak256("fresh"), key));
        if (nonces.length != 0) {
            bytes32 nonce = nonces[nonceSeed % nonces.length];
            _mustFail(address(this), _registration(id, provider, bps, nonce, keys[provider]));
        }
    }

    function deactivate(uint256 idSeed, uint256 chance) external {
        if (chance % 3 != 0) return;
        bytes32 id = ids[idSeed % ids.length];
        (address provider,,,, bool active) = SPLITTER.capabilities(id);
        if (!active) return;
        bool payable_ = _canPayOut(id);
        bool success = _call(provider, abi.encodeCall(IJecpSplitter.deactivate, (id)));
        assertEq(success, payable_, "deactivate fails only with hub or reserve");
        if (success) done["deactivate"]++;
    }

    function _deactivateAsStranger(uint256 idSeed, address caller) internal {
        bytes32 id = ids[idSeed % ids.length];
        (address provider,,,, bool active) = SPLITTER.capabilities(id);
        if (active && caller == provider) return;
        _mustFail(caller, abi.encodeCall(IJecpSplitter.deactivate, (id)));
    }

    // ------------------------------------------------------------ money

    function pull(uint256 amount) public {
        amount = bound(amount, 1, CAP);
        _mint(amount);
        pulled += amount;
    }

    function donate(uint256 amount) external {
        amount = bound(amount, 0, CAP);
        _mint(amount);
        donated += amount;
    }

    /// @dev A truthful settler: records what was pulled and is not recorded, once.
    function record(uint256 idSeed, uint256 amount, bytes calldata tail) external {
        (bytes32 id, bool found) = _activeId(idSeed);
        if (!found) return;
        if (pulled == totalRecorded) pull(amount);
        uint256 pending = pulled - totalRecorded;
        amount = bound(amount, 1, pending < CAP ? pending : CAP);
        bool success = _call(
            SETTLER,
            bytes.concat(abi.encodeCall(IJecpSplitter.recordSettlement, (id, amount)), tail)
        );
        assertTrue(success, "record");
        done["record"]++;
    }

    /// @dev Even the settler cannot record more than lies there unowed.
    function _recordTooMuch(uint256 idSeed, uint256 excess) internal {
        bytes32 id = ids[idSeed % ids.length];
        uint256 surplus = USDC.balanceOf(address(SPLITTER)) - SPLITTER.totalOwed();
        uint256 amount = surplus + (excess % 2 == 0 ? 1 : bound(excess, 1, CAP));
        _mustFail(SETTLER, abi.encodeCall(IJecpSplitter.recordSettlement, (id, amount)));
    }

    function _recordAsStranger(uint256 idSeed, uint256 amount, address caller) internal {
        if (caller == SETTLER) return;
        bytes32 id = ids[idSeed % ids.length];
        _mustFail(caller, abi.encodeCall(IJecpSplitter.recordSettlement, (id, amount)));
    }

    function splitFor(uint256 idSeed, address caller, address label) external {
        bytes32 id = _pendingId(idSeed);
        uint256 amount = SPLITTER.accountedBalance(id);
        bool expected = _isActive(id) && amount != 0 && _canPayOut(id);
        bool success = _call(caller, abi.encodeCall(IJecpSplitter.splitFor, (id, label)));
        assertEq(success, expected, "splitFor");
        if (success) done["split"]++;
    }

    function withdraw(uint256 who) external {
        address provider = providers[who % providers.length];
        for (uint256 i = 0; i < providers.length; i++) {
            address other = providers[(who % providers.length + i) % providers.length];
            if (SPLITTER.providerEscrow(other) != 0) provider = other;
        }
        bool expected = SPLITTER.providerEscrow(provider) != 0 && !USDC.isBlacklisted(provider);
        bool success = _call(provider, abi.encodeCall(IJecpSplitter.withdraw, ()));
        assertEq(success, expected, "withdraw");
        if (success) done["withdraw"]++;
    }

    function _push(address caller, address to, uint256 amount) internal {
        if (caller == address(SPLITTER)) return;
        _mustFail(caller, abi.encodeCall(JecpSplitter._pushProvider, (to, amount)));
    }

    // ------------------------------------------------------------ what must be refused

    function attack(uint256 which, uint256 seed, uint256 number, address caller) external {
        which %= 6;
        if (which == 0) _registerForged(seed, number, number);
        else if (which == 1) _deactivateAsStranger(seed, caller);
        else if (which == 2) _recordTooMuch(seed, number);
        else if (which == 3) _recordAsStranger(seed, number, caller);
        // Any address will do.
        // forge-lint: disable-next-line(unsafe-typecast)
        else if (which == 4) _rotateAsStranger(caller, address(uint160(number)));
        else _push(caller, caller, number);
    }

    // ------------------------------------------------------------ roles and the token

    function govern(uint256 which, uint256 seed, address next) external {
        if (which % 4 == 0) _rotateRelayer(next);
        else _toggleBlacklist(seed);
    }

    function _rotateRelayer(address next) internal {
        if (next == address(0) || next == SETTLER) {
            _mustFail(ADMIN, abi.encodeCall(IJecpSplitter.setRelayer, (next)));
            return;
        }
        assertTrue(_call(ADMIN, abi.encodeCall(IJecpSplitter.setRelayer, (next))), "setRelayer");
        done["rotate"]++;
    }

    function _rotateAsStranger(address caller, address next) internal {
        if (caller == ADMIN) return;
        _mustFail(caller, abi.encodeCall(IJecpSplitter.setRelayer, (next)));
    }

    /// @dev Mostly providers. Treasury and reserve are freed the next time, so that a run does not
    /// stay stopped.
    function _toggleBlacklist(uint256 seed) internal {
        vm.startPrank(CIRCLE);
        USDC.unBlacklist(HUB);
        USDC.unBlacklist(RESERVE);
        if (seed % 8 == 0) {
            USDC.blacklist((seed >> 8) % 2 == 0 ? HUB : RESERVE);
        } else {
            address account = providers[(seed >> 8) % providers.length];
            if (USDC.isBlacklisted(account)) USDC.unBlacklist(account);
            else USDC.blacklist(account);
        }
        vm.stopPrank();
    }

    // ------------------------------------------------------------ inside

    /// @dev Logs count only when the call succeeds, as on chain; forge records those of a reverted
    /// call as well.
    function _call(address caller, bytes memory call) internal returns (bool success) {
        vm.recordLogs();
        vm.prank(caller);
        (success,) = address(SPLITTER).call(call);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; success && i < logs.length; i++) {
            if (logs[i].emitter == address(SPLITTER)) _readLog(logs[i]);
        }
    }

    function _readLog(Vm.Log memory log) internal {
        bytes32 topic = log.topics[0];
        if (topic == IJecpSplitter.SettlementRecorded.selector) {
            (uint256 amount,) = abi.decode(log.data, (uint256, address));
            recorded[log.topics[1]] += amount;
            totalRecorded += amount;
        } else if (topic == IJecpSplitter.PaymentSplit.selector) {
            _readSplit(log);
        } else if (topic == IJecpSplitter.ProviderEscrowed.selector) {
            (uint256 amount,) = abi.decode(log.data, (uint256, string));
            escrowed[address(uint160(uint256(log.topics[1])))] += amount;
            totalEscrowed += amount;
        } else if (topic == IJecpSplitter.ProviderWithdrew.selector) {
            uint256 amount = abi.decode(log.data, (uint256));
            withdrawn[address(uint160(uint256(log.topics[1])))] += amount;
            totalWithdrawn += amount;
        } else if (topic == IJecpSplitter.RelayerRotated.selector) {
            assertEq(log.topics[1], bytes32(uint256(uint160(auditedRelayer))), "rotation chain");
            auditedRelayer = address(uint160(uint256(log.topics[2])));
            rotations++;
        } else if (topic == IJecpSplitter.CapabilityRegistered.selector) {
            assertEq(terms[log.topics[1]], 0, "registered while registered");
            (uint16 p, uint16 h, uint16 r) = abi.decode(log.data, (uint16, uint16, uint16));
            address provider = address(uint160(uint256(log.topics[2])));
            terms[log.topics[1]] = keccak256(abi.encode(provider, p, h, r));
        } else if (topic == IJecpSplitter.CapabilityDeactivated.selector) {
            delete terms[log.topics[1]];
        } else {
            revert("an event that is not published");
        }
    }

    function _readSplit(Vm.Log memory log) internal {
        (uint256 amount, uint256 p, uint256 h, uint256 r) =
            abi.decode(log.data, (uint256, uint256, uint256, uint256));
        assertEq(p + h + r, amount, "I-1: the parts are the whole");
        split[log.topics[1]] += amount;
        totalSplit += amount;
        toProviders += p;
        toHub += h;
        toReserve += r;
    }

    function _mustFail(address caller, bytes memory call) internal {
        assertFalse(_call(caller, call), "must be refused");
        bool success = _call(caller, call);
        assertFalse(success, "must be refused");
        done["refused"]++;
    }

    function _mint(uint256 amount) internal {
        vm.prank(CIRCLE);
        USDC.mint(address(SPLITTER), amount);
    }

    function _isActive(bytes32 id) internal view returns (bool active) {
        (,,,, active) = SPLITTER.capabilities(id);
    }

    /// @dev The first active capability from the seed on.
    function _activeId(uint256 seed) internal view returns (bytes32 id, bool found) {
        for (uint256 i = 0; i < ids.length && !found; i++) {
            id = ids[(seed % ids.length + i) % ids.length];
            found = _isActive(id);
        }
    }

    /// @dev The first capability from the seed on that has something to split, else the seed's.
    function _pendingId(uint256 seed) internal view returns (bytes32 id) {
        for (uint256 i = 0; i < ids.length; i++) {
            id = ids[(seed % ids.length + i) % ids.length];
            if (SPLITTER.accountedBalance(id) != 0) return id;
        }
        return ids[seed % ids.length];
    }

    /// @dev Whether hub and reserve can be sent their shares of what is pending.
    function _canPayOut(bytes32 id) internal view returns (bool) {
        uint256 amount = SPLITTER.accountedBalance(id);
        (, uint16 providerBps, uint16 hubBps,,) = SPLITTER.capabilities(id);
        uint256 hub = amount * hubBps / 10_000;
        uint256 reserve = amount - amount * providerBps / 10_000 - hub;
        return
            !(hub != 0 && USDC.isBlacklisted(HUB)) && !(reserve != 0 && USDC.isBlacklisted(RESERVE));
    }

    function _bps(uint16 providerBps, uint16 hubBps) internal pure returns (uint16[3] memory) {
        providerBps = uint16(bound(providerBps, 0, 10_000));
        hubBps = uint16(bound(hubBps, 0, 10_000 - providerBps));
        return [providerBps, hubBps, 10_000 - providerBps - hubBps];
    }

    function _registration(
        bytes32 id,
        address provider,
        uint16[3] memory bps,
        bytes32 nonce,
        uint256 key
    ) internal view returns (bytes memory) {
        bytes32 structHash = keccak256(
            abi.encode(
                REGISTER_TYPEHASH, id, provider, bps[0], bps[1], bps[2], nonce, block.timestamp
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(
            key,
            keccak256(abi.encodePacked("\x19\x01", SPLITTER.EIP712_DOMAIN_SEPARATOR(), structHash))
        );
        bytes memory signature = abi.encodePacked(r, s, v);
        return abi.encodeCall(
            IJecpSplitter.register,
            (id, provider, bps[0], bps[1], bps[2], nonce, block.timestamp, signature)
        );
    }
}
