// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {console} from "forge-std/Script.sol";
import {SplitterScript} from "./base/SplitterScript.sol";

/// @title Approve
/// @notice Makes a registered capability payable at a JecpSplitter of version 2: the second key.
///
/// Reads the file named by `REGISTRATION`, the same that Register reads; sent by the relayer. It
/// names everything that it approves, so that nobody can slip other terms in before it.
contract Approve is SplitterScript {
    function run() external {
        approve(vm.envString("REGISTRATION"));
    }

    function approve(string memory path) public {
        Registration memory r = _readRegistration(path);
        _requireChain(path, r.chainId);
        string memory version = _versionOf(path, "splitter", r.splitter);
        _refuseUnless(
            path, _equal(version, V2), "splitter is version 1.1.1, which knows no approval"
        );
        _refuseUnless(
            path, _isRegistered(r, version), "capabilityId is not registered with these terms"
        );
        if (_isPayable(r)) {
            console.log("already approved");
            return;
        }
        (,,,, bool active) = r.splitter.capabilities(r.capabilityId);
        _refuseUnless(path, !active, "capabilityId is payable to another provider");
        require(
            msg.sender == r.splitter.relayer(),
            "Approve: --sender is not the Splitter's relayer; only it approves"
        );
        vm.broadcast();
        r.splitter.approve(r.capabilityId, r.provider, r.providerBps, r.hubBps, r.reserveBps);
        require(_isPayable(r), "Approve: the capability is not payable as signed");
        console.log("approved");
    }

    function _isPayable(Registration memory r) internal view returns (bool) {
        (address provider, uint16 p, uint16 h, uint16 s, bool active) =
            r.splitter.capabilities(r.capabilityId);
        return active && provider == r.provider && p == r.providerBps && h == r.hubBps
            && s == r.reserveBps;
    }
}
