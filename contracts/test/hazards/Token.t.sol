// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {UpgradedToken} from "../doubles/UpgradedToken.sol";
import {SplitterBase} from "../unit/SplitterBase.t.sol";

/// @dev What holds even if the token's proxy is upgraded to one that calls back or refuses rudely.
contract TokenHazardsTest is SplitterBase {
    UpgradedToken internal token;

    function setUp() public override {
        super.setUp();
        token = new UpgradedToken();
        splitter = new JecpSplitter(
            address(token), hubTreasury, networkReserve, relayer, relayerAdmin, settler, CAP
        );
        register(CAPABILITY, "n1");
        token.mint(address(splitter), 200_000);
        record(CAPABILITY, 200_000);
    }

    /// @dev During a split, no function that moves or books money can be entered again.
    function test_Reentrancy_EveryGuardedFunctionRefuses() public {
        bytes[5] memory calls = [
            abi.encodeCall(IJecpSplitter.splitFor, (CAPABILITY, payer)),
            abi.encodeCall(IJecpSplitter.withdraw, ()),
            abi.encodeCall(IJecpSplitter.deactivate, (CAPABILITY)),
            abi.encodeCall(IJecpSplitter.recordSettlement, (CAPABILITY, 1)),
            abi.encodeCall(
                IJecpSplitter.register,
                (
                    keccak256("id"),
                    provider.addr,
                    8500,
                    1000,
                    500,
                    keccak256("n2"),
                    block.timestamp,
                    ""
                )
            )
        ];
        uint256 start = vm.snapshotState();
        for (uint256 i = 0; i < calls.length; i++) {
            token.arm(address(splitter), calls[i]);
            splitter.splitFor(CAPABILITY, payer);
            assertEq(token.calls(), 3);
            assertFalse(token.succeeded());
            assertEq(
                bytes4(token.answer()),
                ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector
            );
            assertEq(token.balanceOf(address(splitter)), 0);
            vm.revertToState(start);
        }
    }

    /// @dev `_pushProvider` stays open only to the Splitter itself while a split runs.
    function test_Reentrancy_PushRefusesTheToken() public {
        token.arm(
            address(splitter), abi.encodeCall(JecpSplitter._pushProvider, (address(token), 1))
        );
        splitter.splitFor(CAPABILITY, payer);
        assertFalse(token.succeeded());
        assertEq(bytes4(token.answer()), IJecpSplitter.OnlySelf.selector);
    }

    function test_Reentrancy_WithdrawRefuses() public {
        token.refuse(provider.addr, 0);
        splitter.splitFor(CAPABILITY, payer);
        token.refuse(address(0), 0);
        token.arm(address(splitter), abi.encodeCall(IJecpSplitter.withdraw, ()));
        vm.prank(provider.addr);
        splitter.withdraw();
        assertFalse(token.succeeded());
        assertEq(token.balanceOf(provider.addr), 170_000);
    }

    /// @dev A refusal with a hundred kilobytes of revert data costs the memory of the frame that it
    /// reverts, not the split.
    function test_RevertDataBomb_EscrowsTheProvider() public {
        token.refuse(provider.addr, 100_000);
        splitter.splitFor{gas: 400_000}(CAPABILITY, payer);
        assertEq(splitter.providerEscrow(provider.addr), 170_000);
        assertEq(token.balanceOf(hubTreasury), 20_000);
    }
}
