// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {SplitterBase} from "./SplitterBase.t.sol";

/// @dev R-173, R-181; SetRelayer.tree.
contract SetRelayerTest is SplitterBase {
    function testFuzz_RevertWhen_CallerIsNotTheAdmin(address caller) public {
        vm.assume(caller != relayerAdmin);
        vm.prank(caller);
        vm.expectRevert(IJecpSplitter.UnauthorizedRelayerAdmin.selector);
        splitter.setRelayer(stranger);
        assertEq(splitter.relayer(), relayer);
    }

    function test_RevertWhen_CallerIsTheRelayer() public {
        vm.prank(relayer);
        vm.expectRevert(IJecpSplitter.UnauthorizedRelayerAdmin.selector);
        splitter.setRelayer(stranger);
    }

    function test_RevertWhen_NewRelayerIsZero() public {
        vm.prank(relayerAdmin);
        vm.expectRevert(IJecpSplitter.ZeroAddress.selector);
        splitter.setRelayer(address(0));
    }

    function test_RevertWhen_NewRelayerIsTheSettler() public {
        vm.prank(relayerAdmin);
        vm.expectRevert(abi.encodeWithSelector(IJecpSplitter.RoleConflict.selector, settler));
        splitter.setRelayer(settler);
    }

    function testFuzz_ReplacesTheRelayer(address next) public {
        vm.assume(next != address(0) && next != settler);
        vm.expectEmit(address(splitter));
        emit IJecpSplitter.RelayerRotated(relayer, next);
        vm.prank(relayerAdmin);
        splitter.setRelayer(next);
        assertEq(splitter.relayer(), next);
    }
}
