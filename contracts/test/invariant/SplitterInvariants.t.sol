// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SplitterBase} from "../unit/SplitterBase.t.sol";
import {SplitterHandler} from "./SplitterHandler.sol";

/// @dev R-176 to R-181 (I-1 to I-6) and what the solvency check adds, over random histories.
contract SplitterInvariants is SplitterBase {
    SplitterHandler internal handler;

    function setUp() public override {
        super.setUp();
        bytes32[] memory ids = new bytes32[](3);
        string[] memory names = new string[](3);
        for (uint256 i = 0; i < 3; i++) {
            ids[i] = keccak256(abi.encode("capability", i));
            names[i] = string.concat("provider ", vm.toString(i));
        }
        handler = new SplitterHandler(
            usdc, splitter, [hubTreasury, networkReserve, settler, relayerAdmin], ids, names
        );
        targetContract(address(handler));
    }

    /// @dev Conservation and solvency: I-1, I-2, I-5, C-08, C-10, C-19.
    function invariant_Money() public view {
        uint256 accounted;
        for (uint256 i = 0; i < handler.countOfIds(); i++) {
            bytes32 id = handler.ids(i);
            uint256 balance = splitter.accountedBalance(id);
            assertEq(
                handler.recorded(id), handler.split(id) + balance, "recorded = split + accounted"
            );
            (,,,, bool active) = splitter.capabilities(id);
            assertTrue(active || balance == 0, "inactive implies nothing accounted");
            accounted += balance;
        }

        uint256 escrowed;
        uint256 paidToProviders;
        for (uint256 i = 0; i < handler.countOfProviders(); i++) {
            address provider = handler.providers(i);
            uint256 escrow = splitter.providerEscrow(provider);
            assertEq(
                escrow,
                handler.escrowed(provider) - handler.withdrawn(provider),
                "escrow = escrowed - withdrawn"
            );
            escrowed += escrow;
            paidToProviders += usdc.balanceOf(provider);
        }

        uint256 hub = usdc.balanceOf(hubTreasury);
        uint256 reserve = usdc.balanceOf(networkReserve);
        assertEq(
            handler.totalSplit(),
            paidToProviders + escrowed + hub + reserve,
            "paid = provider + escrow + hub + reserve"
        );
        assertEq(handler.toProviders(), paidToProviders + escrowed, "the providers' share");
        assertEq(handler.toHub(), hub, "the hub's share");
        assertEq(handler.toReserve(), reserve, "the reserve's share");

        assertEq(splitter.totalOwed(), accounted + escrowed, "totalOwed = accounted + escrowed");
        uint256 unrecorded = handler.pulled() - handler.totalRecorded();
        assertEq(
            usdc.balanceOf(address(splitter)),
            splitter.totalOwed() + unrecorded + handler.donated(),
            "solvent, and donations never move"
        );
    }

    /// @dev I-3, I-4, I-6: who may register, and that it can be seen.
    function invariant_Authority() public view {
        for (uint256 i = 0; i < handler.countOfIds(); i++) {
            bytes32 id = handler.ids(i);
            (address provider, uint16 p, uint16 h, uint16 r, bool active) =
                splitter.capabilities(id);
            bytes32 terms = active ? keccak256(abi.encode(provider, p, h, r)) : bytes32(0);
            assertEq(terms, handler.terms(id), "as its provider signed it, or inactive");
            assertTrue(!active || uint256(p) + h + r == 10_000, "shares sum to 10000");
        }
        for (uint256 i = 0; i < handler.countOfNonces(); i++) {
            assertTrue(splitter.usedNonces(handler.nonces(i)), "a used nonce stays used");
        }
        assertFalse(splitter.usedNonces(keccak256("fresh")), "no refusal uses a nonce");
        assertEq(splitter.relayer(), handler.auditedRelayer(), "the logs name the relayer");
    }

    /// @dev Run with -vvv to see that the histories are not empty.
    function afterInvariant() public {
        emit log_named_uint("registered", handler.done("register"));
        emit log_named_uint("deactivated", handler.done("deactivate"));
        emit log_named_uint("recorded", handler.done("record"));
        emit log_named_uint("split", handler.done("split"));
        emit log_named_uint("withdrawn", handler.done("withdraw"));
        emit log_named_uint("rotated", handler.done("rotate"));
        emit log_named_uint("refused", handler.done("refused"));
    }
}
