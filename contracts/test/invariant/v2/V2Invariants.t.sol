// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Test} from "forge-std/Test.sol";
import {JecpSplitterV2} from "../../../src/JecpSplitterV2.sol";
import {UsdcDouble} from "../../doubles/UsdcDouble.sol";
import {V2Handler} from "./V2Handler.sol";

/// @dev What holds whatever the settler does. All of it is checked on one history: making the
/// history is what costs.
abstract contract V2Invariants is Test {
    V2Handler internal handler;
    JecpSplitterV2 internal splitter;
    UsdcDouble internal usdc;
    bytes4[] internal actions;

    function setUpWith(bool honest) internal {
        handler = new V2Handler(honest);
        handler.setUp();
        splitter = handler.contract_();
        usdc = handler.token();
        bytes4[] memory selectors = new bytes4[](20);
        selectors[0] = V2Handler.signs.selector;
        selectors[1] = V2Handler.cancels.selector;
        selectors[2] = V2Handler.spendsElsewhere.selector;
        selectors[3] = V2Handler.pulls.selector;
        selectors[4] = V2Handler.donates.selector;
        selectors[5] = V2Handler.withdraws.selector;
        selectors[6] = V2Handler.strangersTry.selector;
        selectors[7] = V2Handler.settles.selector;
        selectors[8] = V2Handler.records.selector;
        selectors[9] = V2Handler.refunds.selector;
        selectors[10] = V2Handler.registers.selector;
        selectors[11] = V2Handler.approves.selector;
        selectors[12] = V2Handler.revokes.selector;
        selectors[13] = V2Handler.deactivates.selector;
        selectors[14] = V2Handler.rotatesRelayer.selector;
        selectors[15] = V2Handler.blacklists.selector;
        selectors[16] = V2Handler.pauses.selector;
        // Twice, or histories are mostly politics.
        selectors[17] = V2Handler.signs.selector;
        selectors[18] = V2Handler.invalidatesNonce.selector;
        selectors[19] = V2Handler.usurps.selector;
        actions = selectors;
        targetSelector(FuzzSelector({addr: address(handler), selectors: selectors}));
        targetContract(address(handler));
    }

    /// @dev A long history without a fuzzer.
    function roam(uint256 steps) internal {
        for (uint256 i = 0; i < steps; ++i) {
            uint256 r = uint256(keccak256(abi.encode("roam", i)));
            (bool success,) = address(handler)
                .call(
                    abi.encodePacked(
                        actions[r % actions.length], r >> 32, r >> 64, r >> 96, r >> 128
                    )
                );
            assertTrue(success);
        }
    }

    function checkWhateverTheSettlerDoes() internal view {
        checkConservation();
        checkSolvency();
        checkBookedNumbersStayBooked();
        checkUsedNoncesStayUsed();
        checkRegistrationAuthority();
        checkRelayerRotationIsAudited();
    }

    /// @dev I-1: what was booked is with provider, hub or reserve, or in their escrow; what was
    /// refunded is with the payers, or in theirs.
    function checkConservation() internal view {
        uint256 earned;
        for (uint256 i = 0; i < 5; ++i) {
            address account = handler.accountAt(i);
            earned += usdc.balanceOf(account) + splitter.escrow(account);
        }
        assertEq(handler.settledSum() + handler.recordedSum(), earned, "earned");
        uint256 refunded = handler.refundsPaid();
        for (uint256 i = 5; i < 8; ++i) {
            refunded += splitter.escrow(handler.accountAt(i));
        }
        assertEq(handler.refundedSum(), refunded, "refunded");
    }

    function checkSolvency() internal view {
        uint256 owed;
        for (uint256 i = 0; i < handler.accountCount(); ++i) {
            owed += splitter.escrow(handler.accountAt(i));
        }
        assertEq(splitter.totalOwed(), owed, "owed");
        assertGe(usdc.balanceOf(address(splitter)), owed, "solvent");
    }

    /// @dev I-3 for settlement numbers: a bit that was set stays set, and each was set once.
    function checkBookedNumbersStayBooked() internal view {
        assertFalse(handler.aNumberWasBookedTwice());
        uint256 length = handler.bookedNumbersLength();
        for (uint256 i = 0; i < length; ++i) {
            assertTrue(splitter.isBooked(handler.bookedNumbers(i)));
        }
    }

    /// @dev I-3 for nonces: of registrations, used or invalidated; of payments, recorded or
    /// refunded. What was used stays so, and no refusal uses one.
    function checkUsedNoncesStayUsed() internal view {
        for (uint256 i = 0; i < handler.noncesLength(); ++i) {
            (address owner, bytes32 nonce) = handler.nonceAt(i);
            assertTrue(splitter.usedNonces(owner, nonce));
        }
        for (uint256 i = 0; i < 3; ++i) {
            assertFalse(splitter.usedNonces(handler.accountAt(i), "never used"));
        }
        for (uint256 i = 0; i < handler.poolLength(); ++i) {
            (address from, bytes32 nonce, bool taken) = handler.takenAt(i);
            assertEq(splitter.recorded(from, nonce), taken);
        }
    }

    /// @dev I-4: payable is exactly what a provider signed and the relayer approved.
    function checkRegistrationAuthority() internal view {
        for (uint256 i = 0; i < 3; ++i) {
            bytes32 id = handler.ids(i);
            (address who, uint16 p, uint16 h, uint16 r, bool active) = splitter.capabilities(id);
            bytes32 terms = active ? keccak256(abi.encode(who, [p, h, r])) : bytes32(0);
            assertEq(terms, handler.agreed(id));
            if (active) {
                assertEq(uint256(p) + h + r, 10_000);
                assertGe(h, splitter.MIN_HUB_BPS());
                assertGe(r, splitter.MIN_RESERVE_BPS());
            }
        }
    }

    /// @dev I-6: the relayer is who the last event says.
    function checkRelayerRotationIsAudited() internal view {
        assertEq(splitter.relayer(), handler.lastRelayer());
    }
}

contract V2HonestSettlerInvariants is V2Invariants {
    function setUp() public {
        setUpWith(true);
    }

    /// forge-config: default.invariant.runs = 24
    /// forge-config: deep.invariant.runs = 10000
    function invariant_WithAnHonestSettler() public view {
        checkWhateverTheSettlerDoes();
        checkExactlyOncePerPayerAndNonce();
        checkDonationsNeverMove();
        checkOnlyBookedNumbersAreBooked();
    }

    /// @dev The handler reaches what the invariants are about.
    function test_TheHandlerReachesEveryState() public {
        roam(2000);
        assertGt(handler.settledSum(), 0);
        assertGt(handler.recordedSum(), 0);
        assertGt(handler.refundedSum(), 0);
        assertGt(handler.refundsPaid(), 0);
        assertGt(handler.donated(), 0);
        assertGt(handler.escrows(), 0);
        assertGt(handler.withdrawals(), 0);
        assertGt(handler.rotations(), 0);
        assertGt(handler.refusals(), 0);
        assertGt(handler.noncesLength(), 0);
        assertEq(handler.mostTimesBooked(), 1);
        invariant_WithAnHonestSettler();
    }

    function checkExactlyOncePerPayerAndNonce() internal view {
        assertLe(handler.mostTimesBooked(), 1);
    }

    /// @dev Donations never move, and nothing else goes missing: the balance is what is owed, what
    /// others pulled and nobody booked yet, and what was given away.
    function checkDonationsNeverMove() internal view {
        uint256 waiting = handler.pulledByOthers() - handler.recordedSum() - handler.refundedSum();
        assertEq(
            usdc.balanceOf(address(splitter)), splitter.totalOwed() + waiting + handler.donated()
        );
    }

    function checkOnlyBookedNumbersAreBooked() internal view {
        uint256 length = handler.poolLength();
        for (uint256 i = 0; i < length; ++i) {
            (uint64 number, bool isBooked) = handler.numberAt(i);
            assertEq(splitter.isBooked(number), isBooked);
        }
    }
}

/// @dev A settler who numbers as he likes and records what was cancelled. He takes what belongs to
/// nobody yet, among approved capabilities and payers who signed; never what is owed.
contract V2DishonestSettlerInvariants is V2Invariants {
    function setUp() public {
        setUpWith(false);
    }

    /// forge-config: default.invariant.runs = 24
    /// forge-config: deep.invariant.runs = 10000
    function invariant_WithADishonestSettler() public view {
        checkWhateverTheSettlerDoes();
        checkTakesOnlyWhatBelongsToNobody();
    }

    /// @dev He does cheat: something is booked more than once.
    function test_TheHandlerReachesEveryState() public {
        roam(2000);
        assertGt(handler.mostTimesBooked(), 1);
        invariant_WithADishonestSettler();
    }

    function checkTakesOnlyWhatBelongsToNobody() internal view {
        assertLe(
            handler.recordedSum() + handler.refundedSum(),
            handler.pulledByOthers() + handler.donated()
        );
    }
}
