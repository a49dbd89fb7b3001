// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {console} from "forge-std/Script.sol";
import {SplitterScript} from "./base/SplitterScript.sol";

/// @title Register
/// @notice Submits a capability's registration that its provider has signed, to either version.
///
/// Reads the file named by `REGISTRATION`: chainId, splitter, capabilityId, provider, providerBps,
/// hubBps, reserveBps, nonce, deadline, signature. A capability that is already registered with
/// these very terms is left alone; with other terms the script refuses. At a JecpSplitter of
/// version 2 the relayer makes it payable afterwards, see Approve; until then the provider may
/// register other terms.
contract Register is SplitterScript {
    function run() external {
        submit(vm.envString("REGISTRATION"));
    }

    function submit(string memory path) public {
        Registration memory r = _readRegistration(path);
        if (!_checkRegistration(r)) {
            console.log("already registered");
            return;
        }
        _submit(r);
        console.log("registered");
    }
}
