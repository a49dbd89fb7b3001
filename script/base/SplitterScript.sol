// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Script} from "forge-std/Script.sol";
import {stdJson} from "forge-std/StdJson.sol";
import {ISigner, ISplitter} from "./ISplitter.sol";

/// @dev What the scripts share. Every refusal happens before the first broadcast and reads
/// "file: key what is wrong with it".
abstract contract SplitterScript is Script {
    using stdJson for string;

    string internal constant V1 = "1.1.1";
    string internal constant V2 = "2";

    /// @dev Half the order of secp256k1: every signature has a twin above it, which is refused.
    uint256 internal constant HALF_ORDER =
        0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    bytes32 internal constant REGISTER_TYPEHASH = keccak256(
        "Register(bytes32 capabilityId,address provider,uint16 providerBps,uint16 hubBps,uint16 reserveBps,bytes32 nonce,uint256 deadline)"
    );

    /// @dev A registration as its provider signs it, and the file that it comes from.
    struct Registration {
        string path;
        uint256 chainId;
        ISplitter splitter;
        bytes32 capabilityId;
        address provider;
        uint16 providerBps;
        uint16 hubBps;
        uint16 reserveBps;
        bytes32 nonce;
        uint256 deadline;
        bytes signature;
    }

    function _refuseUnless(string memory path, bool condition, string memory what) internal pure {
        require(condition, string.concat(path, ": ", what));
    }

    /// @dev A key that is not there would otherwise be reported without the file's name.
    function _requireKeys(string memory path, string memory json, string[] memory keys)
        internal
        view
    {
        for (uint256 i = 0; i < keys.length; i++) {
            bool there = vm.keyExistsJson(json, string.concat(".", keys[i]));
            _refuseUnless(path, there, string.concat(keys[i], " is missing"));
        }
    }

    function _requireChain(string memory path, uint256 chainId) internal view {
        _refuseUnless(path, chainId == block.chainid, "chainId is not the chain behind --rpc-url");
    }

    /// @dev The Splitter's version, by ERC-5267; refuses what is no Splitter of this chain.
    function _versionOf(string memory path, string memory key, ISplitter splitter)
        internal
        view
        returns (string memory version)
    {
        _refuseUnless(path, address(splitter).code.length != 0, string.concat(key, " has no code"));
        string memory wrong = string.concat(key, " is not a JecpSplitter 1.1.1 or 2");
        try splitter.eip712Domain() returns (
            bytes1,
            string memory name,
            string memory version_,
            uint256,
            address where,
            bytes32,
            uint256[] memory
        ) {
            bool known = _equal(version_, V1) || _equal(version_, V2);
            _refuseUnless(
                path, _equal(name, "JecpSplitter") && known && where == address(splitter), wrong
            );
            version = version_;
        } catch {
            _refuseUnless(path, false, wrong);
        }
    }

    // ------------------------------------------------------------ registrations

    function _readRegistration(string memory path) internal view returns (Registration memory r) {
        string memory json = vm.readFile(path);
        string[] memory keys = new string[](10);
        keys[0] = "chainId";
        keys[1] = "splitter";
        keys[2] = "capabilityId";
        keys[3] = "provider";
        keys[4] = "providerBps";
        keys[5] = "hubBps";
        keys[6] = "reserveBps";
        keys[7] = "nonce";
        keys[8] = "deadline";
        keys[9] = "signature";
        _requireKeys(path, json, keys);
        r.path = path;
        r.chainId = json.readUint(".chainId");
        r.splitter = ISplitter(json.readAddress(".splitter"));
        r.capabilityId = json.readBytes32(".capabilityId");
        r.provider = json.readAddress(".provider");
        r.providerBps = _readBps(path, json, ".providerBps");
        r.hubBps = _readBps(path, json, ".hubBps");
        r.reserveBps = _readBps(path, json, ".reserveBps");
        r.nonce = json.readBytes32(".nonce");
        r.deadline = json.readUint(".deadline");
        r.signature = json.readBytes(".signature");
    }

    function _readBps(string memory path, string memory json, string memory key)
        internal
        pure
        returns (uint16)
    {
        uint256 bps = json.readUint(key);
        require(bps <= 10_000, string.concat(path, ": ", key, " is above 10000"));
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint16(bps);
    }

    /// @dev Everything that can be known before it is sent. Returns false when the Splitter has the
    /// very registration already.
    function _checkRegistration(Registration memory r) internal view returns (bool toSubmit) {
        string memory path = r.path;
        _requireChain(path, r.chainId);
        string memory version = _versionOf(path, "splitter", r.splitter);
        if (_isRegistered(r, version)) return false;

        uint256 sum = uint256(r.providerBps) + r.hubBps + r.reserveBps;
        _refuseUnless(path, sum == 10_000, "providerBps, hubBps and reserveBps do not sum to 10000");
        _refuseUnless(
            path, block.timestamp <= r.deadline, "deadline has passed; have it signed again"
        );
        bool isV2 = _equal(version, V2);
        bool used =
            isV2 ? r.splitter.usedNonces(r.provider, r.nonce) : r.splitter.usedNonces(r.nonce);
        _refuseUnless(path, !used, "nonce was used; have it signed again");
        if (isV2) {
            _refuseUnless(
                path, r.hubBps >= r.splitter.MIN_HUB_BPS(), "hubBps is below the Splitter's minimum"
            );
            _refuseUnless(
                path,
                r.reserveBps >= r.splitter.MIN_RESERVE_BPS(),
                "reserveBps is below the Splitter's minimum"
            );
        }
        _refuseUnless(path, r.signature.length != 0, "signature is missing; have it signed");
        _refuseUnless(path, _isSigned(r, isV2), "signature is not the provider's over these terms");
        return true;
    }

    /// @dev True when registered with the same terms; refuses when these cannot be registered any
    /// more. At version 2 that is when somebody is paid: what is not payable may be signed anew.
    function _isRegistered(Registration memory r, string memory version)
        internal
        view
        returns (bool)
    {
        if (_equal(version, V2)) {
            (uint16 p, uint16 h, uint16 s) = r.splitter.registrations(r.capabilityId, r.provider);
            if (p == r.providerBps && h == r.hubBps && s == r.reserveBps && p | h | s != 0) {
                return true;
            }
            (address payee,,,, bool payable_) = r.splitter.capabilities(r.capabilityId);
            _refuseUnless(
                r.path,
                !payable_ || payee == r.provider,
                "capabilityId is payable to another provider"
            );
            _refuseUnless(r.path, !payable_, "capabilityId is already registered with other terms");
            return false;
        }
        (address provider, uint16 providerBps, uint16 hubBps, uint16 reserveBps, bool active) =
            r.splitter.capabilities(r.capabilityId);
        if (!active) return false;
        _refuseUnless(
            r.path,
            provider == r.provider && providerBps == r.providerBps && hubBps == r.hubBps
                && reserveBps == r.reserveBps,
            "capabilityId is already registered with other terms"
        );
        return true;
    }

    function _submit(Registration memory r) internal {
        vm.broadcast();
        r.splitter
            .register(
                r.capabilityId,
                r.provider,
                r.providerBps,
                r.hubBps,
                r.reserveBps,
                r.nonce,
                r.deadline,
                r.signature
            );
        string memory version = _versionOf(r.path, "splitter", r.splitter);
        require(_isRegistered(r, version), "the capability is not registered as signed");
    }

    function _digest(Registration memory r) internal view returns (bytes32) {
        bytes32 structHash = keccak256(
            abi.encode(
                REGISTER_TYPEHASH,
                r.capabilityId,
                r.provider,
                r.providerBps,
                r.hubBps,
                r.reserveBps,
                r.nonce,
                r.deadline
            )
        );
        return
            keccak256(
                abi.encodePacked("\x19\x01", r.splitter.EIP712_DOMAIN_SEPARATOR(), structHash)
            );
    }

    /// @dev As the Splitter itself looks at it: a key first, whatever code lies over it (EIP-7702);
    /// then, at version 2, the code (ERC-1271).
    function _isSigned(Registration memory r, bool isV2) internal view returns (bool) {
        bytes32 digest = _digest(r);
        address signer = _recover(digest, r.signature);
        if (signer != address(0) && signer == r.provider) return true;
        if (!isV2 || r.provider.code.length == 0) return false;
        bytes memory question = abi.encodeCall(ISigner.isValidSignature, (digest, r.signature));
        (bool success, bytes memory answer) = r.provider.staticcall(question);
        return success && answer.length >= 32
            && abi.decode(answer, (bytes32)) == bytes32(ISigner.isValidSignature.selector);
    }

    /// @dev The signer, or zero for whatever is not 65 bytes with the lower s.
    function _recover(bytes32 digest, bytes memory signature) internal pure returns (address) {
        if (signature.length != 65) return address(0);
        bytes32 first;
        bytes32 second;
        assembly {
            first := mload(add(signature, 0x20))
            second := mload(add(signature, 0x40))
        }
        if (uint256(second) > HALF_ORDER) return address(0);
        return ecrecover(digest, uint8(signature[64]), first, second);
    }

    /// @dev An account with a key: no code, or an EIP-7702 delegation.
    function _isKey(address account) internal view returns (bool) {
        bytes memory code = account.code;
        // The first three bytes are what is meant.
        // forge-lint: disable-next-line(unsafe-typecast)
        return code.length == 0 || (code.length == 23 && bytes3(code) == 0xef0100);
    }

    function _equal(string memory a, string memory b) internal pure returns (bool) {
        return keccak256(bytes(a)) == keccak256(bytes(b));
    }
}
