// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";
import {JecpSplitter} from "../../src/JecpSplitter.sol";
import {IJecpSplitter} from "../../src/interfaces/IJecpSplitter.sol";
import {UsdcDouble} from "../doubles/UsdcDouble.sol";

/// @dev The cheatcode of halmos that makes calldata of any of a contract's functions.
interface Svm {
    function createCalldata(string calldata contractName) external view returns (bytes memory);
}

/// @dev Proofs for every input, by halmos (`make audit`); forge does not run `check_` functions.
/// What nonlinear arithmetic keeps from terminating, the division by shares for all shares, is left
/// to
/// fuzz and invariants.
contract SplitterSymbolic is Test {
    Svm internal constant SVM = Svm(address(uint160(uint256(keccak256("svm cheat code")))));
    bytes32 internal constant CAPABILITY = keccak256("demo:echo");
    uint256 internal constant CAP = 1_000_000_000;

    address internal hubTreasury = address(0x1001);
    address internal networkReserve = address(0x1002);
    address internal relayer = address(0x1003);
    address internal relayerAdmin = address(0x1004);
    address internal settler = address(0x1005);
    address internal provider = address(0x1006);

    UsdcDouble internal usdc;
    JecpSplitter internal splitter;

    function setUp() public {
        usdc = new UsdcDouble();
        usdc.initialize("USDC", address(this));
        splitter = new JecpSplitter(
            address(usdc), hubTreasury, networkReserve, relayer, relayerAdmin, settler, CAP
        );
        activate(8500, 1000, 500);
        (address owner,, uint16 hubBps,, bool active) = splitter.capabilities(CAPABILITY);
        assertTrue(active && owner == provider && hubBps == 1000);
    }

    /// @dev R-168, R-184, R-185.
    function check_OnlyTheSettlerRecords(address caller, bytes32 id, uint256 amount) public {
        vm.assume(caller != settler);
        usdc.mint(address(splitter), CAP);
        vm.prank(caller);
        (bool success,) =
            address(splitter).call(abi.encodeCall(IJecpSplitter.recordSettlement, (id, amount)));
        assertFalse(success);
    }

    /// @dev C-08: whatever lies there and whatever the settler asks, what is owed is there.
    function check_RecordKeepsTheSplitterSolvent(uint128 balance, uint256 first, uint256 second)
        public
    {
        usdc.mint(address(splitter), balance);
        vm.startPrank(settler);
        (bool one,) = address(splitter)
            .call(abi.encodeCall(IJecpSplitter.recordSettlement, (CAPABILITY, first)));
        (bool two,) = address(splitter)
            .call(abi.encodeCall(IJecpSplitter.recordSettlement, (CAPABILITY, second)));
        vm.stopPrank();
        assertLe(splitter.totalOwed(), balance);
        assertEq(splitter.totalOwed(), splitter.accountedBalance(CAPABILITY));
        assertEq(splitter.totalOwed(), (one ? first : 0) + (two ? second : 0));
    }

    function check_OnlyTheAdminRotatesTheRelayer(address caller, address next) public {
        vm.prank(caller);
        (bool success,) = address(splitter).call(abi.encodeCall(IJecpSplitter.setRelayer, (next)));
        assertEq(success, caller == relayerAdmin && next != address(0) && next != settler);
        assertEq(splitter.relayer(), success ? next : relayer);
    }

    function check_OnlyTheProviderDeactivates(address caller, bytes32 id) public {
        vm.prank(caller);
        (bool success,) = address(splitter).call(abi.encodeCall(IJecpSplitter.deactivate, (id)));
        assertEq(success, caller == provider && id == CAPABILITY);
    }

    function check_OnlyTheSplitterPushes(address caller, address to, uint256 amount) public {
        vm.assume(caller != address(splitter));
        usdc.mint(address(splitter), CAP);
        vm.prank(caller);
        (bool success,) =
            address(splitter).call(abi.encodeCall(JecpSplitter._pushProvider, (to, amount)));
        assertFalse(success);
    }

    /// @dev I-2, for every function with every argument: nobody but the settler accounts anything,
    /// and with nothing accounted nobody moves a unit.
    function check_WithoutTheSettlerNothingMoves(address caller) public {
        vm.assume(caller != settler && caller != address(splitter));
        usdc.mint(address(splitter), CAP);
        bytes memory call = SVM.createCalldata("JecpSplitter");
        vm.prank(caller);
        (bool success,) = address(splitter).call(call);
        success;
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(splitter.totalOwed(), 0);
        assertEq(usdc.balanceOf(address(splitter)), CAP);
    }

    /// @dev I-1 and I-5 for the published shares and every amount up to the cap.
    function check_SplitPaysExactlyWhatIsAccounted(uint256 amount) public {
        vm.assume(amount != 0 && amount <= CAP);
        usdc.mint(address(splitter), CAP);
        recordAndSplit(amount);
        assertEq(usdc.balanceOf(address(splitter)), CAP - amount);
        assertEq(splitter.accountedBalance(CAPABILITY), 0);
        assertEq(splitter.totalOwed(), 0);
        assertEq(
            usdc.balanceOf(provider) + usdc.balanceOf(hubTreasury) + usdc.balanceOf(networkReserve),
            amount
        );
    }

    /// @dev The same for every division into shares.
    function check_SplitPaysExactlyWhatIsAccountedForAllShares(
        uint256 amount,
        uint16 providerBps,
        uint16 hubBps
    ) public {
        vm.assume(amount != 0 && amount <= CAP);
        vm.assume(providerBps <= 10_000 && hubBps <= 10_000 - providerBps);
        activate(providerBps, hubBps, 10_000 - providerBps - hubBps);
        usdc.mint(address(splitter), CAP);
        recordAndSplit(amount);
        assertEq(usdc.balanceOf(address(splitter)), CAP - amount);
        assertEq(
            usdc.balanceOf(provider) + usdc.balanceOf(hubTreasury) + usdc.balanceOf(networkReserve),
            amount
        );
    }

    /// @dev A path that reverts is no counterexample to halmos: proven is what a split pays when it
    /// passes. That every split passes needs nonlinear reasoning that does not end (tried: ten
    /// minutes); fuzz and invariants show it.
    function recordAndSplit(uint256 amount) internal {
        vm.prank(settler);
        splitter.recordSettlement(CAPABILITY, amount);
        splitter.splitFor(CAPABILITY, address(0));
    }

    /// @dev An active capability without a signature, which a solver cannot invert: slot 1 maps ids
    /// to provider (160 bits), three shares (16 each) and `active`.
    function activate(uint16 providerBps, uint16 hubBps, uint16 reserveBps) internal {
        bytes32 slot = keccak256(abi.encode(CAPABILITY, uint256(1)));
        uint256 packed = uint256(uint160(provider)) | (uint256(providerBps) << 160)
            | (uint256(hubBps) << 176) | (uint256(reserveBps) << 192) | (uint256(1) << 208);
        vm.store(address(splitter), slot, bytes32(packed));
    }
}
