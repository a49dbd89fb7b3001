// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";
import {SplitterBase} from "../unit/SplitterBase.t.sol";

/// @dev Everybody but the settler: any call, published or not, by anyone, with money lying there.
contract CrowdHandler is Test {
    JecpSplitter internal immutable SPLITTER;
    UsdcDouble internal immutable USDC;
    address internal immutable SETTLER;
    bytes32 internal immutable CAPABILITY;
    bytes4[] internal selectors;
    address[] internal callers;
    uint256 public donated;

    constructor(
        JecpSplitter splitter,
        UsdcDouble usdc,
        address settler,
        bytes32 capability,
        address[] memory callers_
    ) {
        (SPLITTER, USDC, SETTLER, CAPABILITY) = (splitter, usdc, settler, capability);
        callers = callers_;
        selectors = [
            IJecpSplitter.recordSettlement.selector,
            IJecpSplitter.splitFor.selector,
            IJecpSplitter.withdraw.selector,
            JecpSplitter._pushProvider.selector,
            // The overload that some texts list; it is not there.
            bytes4(0x0554c140)
        ];
    }

    function donate(uint128 amount) external {
        vm.prank(USDC.admin());
        USDC.mint(address(SPLITTER), amount);
        donated += amount;
    }

    function callAsAnyone(address caller, uint256 which, bytes32 word, bytes calldata rest)
        external
    {
        if (caller == SETTLER || caller == address(SPLITTER)) return;
        _call(caller, abi.encodePacked(selectors[which % selectors.length], word, rest));
    }

    function callAsARole(uint256 who, uint256 which, uint256 amount) external {
        address caller = callers[who % callers.length];
        bytes4 selector = selectors[which % selectors.length];
        _call(caller, abi.encodePacked(selector, CAPABILITY, amount, new bytes(96)));
    }

    function callAnything(address caller, bytes calldata data) external {
        if (caller == SETTLER || caller == address(SPLITTER)) return;
        _call(caller, data);
    }

    function _call(address caller, bytes memory data) internal {
        vm.prank(caller);
        // What is asked is whether state changes, not whether the call succeeds.
        (bool success,) = address(SPLITTER).call(data);
        success;
    }
}

/// @dev R-168, R-184, R-185: without the settler no balance is ever accounted, and nothing that
/// lies in the Splitter moves.
contract NoSettlerInvariants is SplitterBase {
    CrowdHandler internal handler;

    function setUp() public override {
        super.setUp();
        register(CAPABILITY, "n1");
        address[] memory callers = new address[](6);
        callers[0] = hubTreasury;
        callers[1] = networkReserve;
        callers[2] = relayer;
        callers[3] = relayerAdmin;
        callers[4] = provider.addr;
        callers[5] = stranger;
        handler = new CrowdHandler(splitter, usdc, settler, CAPABILITY, callers);
        targetContract(address(handler));
    }

    function invariant_WithoutTheSettlerNothingIsAccounted() public view {
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(splitter.totalOwed(), 0);
        assertEq(usdc.balanceOf(address(splitter)), handler.donated());
    }
}
